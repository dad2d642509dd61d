// A thin C++ face of the C API for benchmarks and commands: owned pools and consumers, space in the
// consumer's region, and tickets whose two ends can be waited for.
//
// Thread: a Pool may be used from any thread; a Consumer, and all that came from it, by one thread at a time.
// Failure: Result<> with the pool's own words. Nothing waits without end: a ticket that gives no sign of life
// for `patience` is an error that says so. Busy is not an error here: submit() waits for a completion and
// tries again, and a request that the pool itself answered with Busy is sent again by result() and finish().

#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "base/result.h"
#include "kvpool/kvpool.h"
#include "layout/geometry.h"

namespace kvpool::bench {

inline constexpr Nanos patience = std::chrono::seconds(120);

[[nodiscard]] Errc to_errc(int32_t status);
[[nodiscard]] constexpr kvpool_key to_api(const BlockKey& key) { return {key.high, key.low}; }

class Pool {
 public:
  // The text of a kvpool.toml. All of it is validated before any device is touched.
  [[nodiscard]] static Result<Pool> open(const std::string& config_toml);
  // A pool that was opened otherwise; it is closed as any.
  [[nodiscard]] static Pool adopt(kvpool_pool* pool) { return Pool(pool); }
  Pool(Pool&&) = default;
  Pool& operator=(Pool&&) = default;
  ~Pool() = default;  // closes; a failure to do so is logged

  // REQUIRES: no Consumer of it is in use. On failure (a device still holds buffers) the pool stays open.
  [[nodiscard]] Status close(Nanos timeout = patience);

  [[nodiscard]] Result<NamespaceId> open_namespace(const Geometry& geometry, bool flat);
  // MISS: no namespace of that name.
  [[nodiscard]] Result<NamespaceId> find_namespace(const std::string& name);
  // At most a few milliseconds old.
  [[nodiscard]] kvpool_stats stats() const;
  // Once no ticket is under way and the counters have come to rest; for exact counts at the end of a run.
  [[nodiscard]] kvpool_stats settled_stats() const;
  [[nodiscard]] std::vector<kvpool_device_stats> device_stats() const;
  [[nodiscard]] kvpool_pool* handle() const { return handle_.get(); }

 private:
  struct Closer {
    void operator()(kvpool_pool* pool) const;
  };
  explicit Pool(kvpool_pool* pool) : handle_(pool) {}
  std::unique_ptr<kvpool_pool, Closer> handle_;
};

enum class RequestKind : uint8_t { match, retrieve, store, stage, estimate, remove, unpin };

// Fills a kvpool_request. Keys and buffers must lie in the consumer's regions.
class Request {
 public:
  Request(RequestKind kind, NamespaceId ns) : kind_(kind) {
    raw_.struct_size = sizeof raw_;
    raw_.ns = ns.value;
  }
  Request& keys(std::span<const kvpool_key> keys) {
    raw_.keys = keys.data();
    raw_.blocks = static_cast<uint32_t>(keys.size());
    return *this;
  }
  Request& parent(const kvpool_key& key) {
    raw_.parent = key;
    raw_.has_parent = 1;
    return *this;
  }
  // [blocks][segments] addresses made by Consumer::address().
  Request& buffers(std::span<const uint64_t> addresses) {
    raw_.buffers = addresses.data();
    return *this;
  }
  Request& segments(uint32_t first, uint32_t count) {
    raw_.segment_first = first;
    raw_.segment_count = count;
    return *this;
  }
  // Blocks [first, first + blocks) of a pinned run.
  Request& pinned(kvpool_pin pin, uint32_t first, uint32_t blocks) {
    raw_.pin = pin;
    raw_.block_first = first;
    raw_.blocks = blocks;
    return *this;
  }
  Request& pin(kvpool_pin pin) {
    raw_.pin = pin;
    return *this;
  }
  Request& flags(uint32_t flags) {
    raw_.flags |= flags;
    return *this;
  }
  Request& timeout(Nanos timeout) {
    raw_.timeout_us = static_cast<uint64_t>(std::chrono::ceil<std::chrono::microseconds>(timeout).count());
    return *this;
  }

  [[nodiscard]] RequestKind kind() const { return kind_; }
  [[nodiscard]] const kvpool_request& raw() const { return raw_; }
  [[nodiscard]] kvpool_request& raw() { return raw_; }

 private:
  RequestKind kind_;
  kvpool_request raw_{};
};

// A request under way. Whoever submitted it must finish() it.
struct Ticket {
  uint32_t slot = UINT32_MAX;
  uint32_t generation = 0;
  [[nodiscard]] bool valid() const { return slot != UINT32_MAX; }
};

struct Outcome {
  Errc code = Errc::ok;
  uint32_t blocks = 0;
  uint32_t segments = 0;
  uint64_t bytes = 0;
  kvpool_pin pin = 0;
  Nanos estimate{0};
  // Of SteadyClock: when submit() was called, Busy answers and all; when poll() saw the two ends.
  Nanos submitted_at{0}, result_at{0}, released_at{0};
  [[nodiscard]] Nanos latency() const { return result_at - submitted_at; }
};

class Consumer {
 public:
  // Tickets that may be unfinished at a time: as many as the engine gives a consumer.
  static constexpr uint32_t slots_max = 256;

  [[nodiscard]] static Result<Consumer> open(Pool& pool, const std::string& name, uint64_t region_bytes);
  Consumer(Consumer&&) = default;
  Consumer& operator=(Consumer&&) = default;
  ~Consumer() = default;  // cancels and drains; a failure to do so is logged
  [[nodiscard]] Status close(Nanos timeout = patience);

  // Space in region 0, from its start upward; zeroed by nobody. free_all() takes all of it back.
  // TOO_LARGE names what was asked and what is left. REQUIRES: alignment is a power of two, at most 4096.
  [[nodiscard]] Result<std::span<std::byte>> allocate(uint64_t bytes, uint64_t alignment = 4096);
  template <class T>
  [[nodiscard]] Result<std::span<T>> allocate_array(uint64_t count) {
    auto bytes = allocate(count * sizeof(T), alignof(T) < 64 ? 64 : alignof(T));
    if (!bytes) return tl::unexpected(bytes.error());
    return std::span<T>(reinterpret_cast<T*>(bytes->data()), count);
  }
  void free_all() { used_bytes_ = 0; }  // REQUIRES: no ticket is under way
  [[nodiscard]] uint64_t region_bytes() const { return region_.size(); }
  [[nodiscard]] std::span<std::byte> region() const { return region_; }

  // How requests spell the address of memory in one of the consumer's regions.
  [[nodiscard]] uint64_t address(const void* pointer) const;
  // Makes the caller's memory a region; it must outlive the consumer.
  [[nodiscard]] Status add_region(std::span<std::byte> memory);

  // Sends a request; where the pool says Busy, takes completions until it does not. TOO_LARGE: slots_max
  // tickets have not been finished.
  [[nodiscard]] Result<Ticket> submit(const Request& request);
  // Takes the completions that are there. Returns how many. Never blocks.
  uint32_t poll();
  // Sleeps until a completion or progress may be there.
  void wait(Nanos timeout);

  // REQUIRES (all below): a ticket from submit() that has not been finished.
  [[nodiscard]] bool has_result(Ticket ticket) const;
  [[nodiscard]] bool is_released(Ticket ticket) const;
  // How many leading segments are complete in every block that is still promised.
  [[nodiscard]] uint32_t progress(Ticket ticket) const;
  Status cancel(Ticket ticket);
  // Waits for the result.
  [[nodiscard]] Result<Outcome> result(Ticket ticket);
  // Waits for the release, and forgets the ticket: its buffers are the caller's again.
  [[nodiscard]] Result<Outcome> finish(Ticket ticket);
  // submit() and finish().
  [[nodiscard]] Result<Outcome> run(const Request& request);

  [[nodiscard]] uint32_t outstanding() const { return outstanding_; }
  [[nodiscard]] kvpool_consumer* handle() const { return handle_.get(); }

 private:
  struct Closer {
    void operator()(kvpool_consumer* consumer) const;
  };
  struct Slot {
    Request request{RequestKind::match, NamespaceId{}};
    kvpool_ticket ticket = 0;
    Outcome outcome;
    uint32_t generation = 0;
    bool used = false;
    bool has_result = false;
    bool released = false;
  };
  explicit Consumer(kvpool_consumer* consumer);
  [[nodiscard]] Status send(uint32_t index);
  void take(const kvpool_completion& completion);
  [[nodiscard]] Status await(uint32_t index, bool released);
  Slot& slot_of(Ticket ticket);
  [[nodiscard]] const Slot& slot_of(Ticket ticket) const;

  std::unique_ptr<kvpool_consumer, Closer> handle_;
  std::span<std::byte> region_;
  uint64_t used_bytes_ = 0;
  std::unique_ptr<std::array<Slot, slots_max>> slots_;
  std::vector<uint32_t> free_slots_;
  uint32_t outstanding_ = 0;  // sent and not released
};

}  // namespace kvpool::bench
