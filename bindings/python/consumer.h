// Consumer and Request: a consumer of the C API for Python, and one request of it.
//
// Threads: all state changes while the GIL is held; waits let go of it. So any thread may use a consumer, but
// threads that wait on one at the same time wake each other late (by 1 ms at most): give each its own.
// Failure: PoolError for a request that cannot be sent. What comes of one that was sent is its result's
// status; a miss is no error.
// A request holds its buffers until its release, whether or not Python still has it.

#pragma once

#include <nanobind/nanobind.h>

#include <array>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kvpool/kvpool.h"
#include "pool.h"

namespace kvpool::python {

class Request;

// Negative: no limit.
[[nodiscard]] uint64_t microseconds(double seconds);

enum class Op : uint8_t { match, retrieve, store, stage, estimate, remove };

// One request before it is sent: the arrays that the C API reads, and what keeps the buffers.
struct Order {
  Op op = Op::match;
  kvpool_request request{};
  std::vector<kvpool_key> keys;
  std::vector<uint64_t> addresses;
  std::vector<std::shared_ptr<void>> kept;
};

// A consumer that may name all memory of the process: it trusts its own process with its addresses.
[[nodiscard]] kvpool_consumer* open_consumer(const Pool& pool, const std::string& name,
                                             uint64_t region_bytes);

class Consumer final : public Closable, public std::enable_shared_from_this<Consumer> {
 public:
  [[nodiscard]] static std::shared_ptr<Consumer> open(std::shared_ptr<Pool> pool, const std::string& name,
                                                      uint64_t region_bytes);
  Consumer(const Consumer&) = delete;
  Consumer& operator=(const Consumer&) = delete;
  ~Consumer() override;

  // Raises TimedOut where a device still holds buffers; it may be called again.
  void close(double timeout_s) override;
  [[nodiscard]] kvpool_consumer* get() const;
  [[nodiscard]] bool closed() const { return consumer_ == nullptr || closed_ || pool_->is_inherited(); }
  [[nodiscard]] const std::shared_ptr<Pool>& pool() const { return pool_; }
  // Memory of the pool's own, of huge pages and registered with the devices: empty, or region_bytes.
  [[nodiscard]] std::span<std::byte> region() const;
  // Held by whoever may use the region: as long as one of these is there, closing gives no memory back.
  class Lent {
   public:
    explicit Lent(std::shared_ptr<Consumer> consumer);
    Lent(const Lent&) = delete;
    Lent& operator=(const Lent&) = delete;
    ~Lent();

   private:
    std::shared_ptr<Consumer> consumer_;
  };
  // How a request spells that address.
  [[nodiscard]] uint64_t address(const void* pointer) const { return kvpool_address(get(), pointer); }

  // BUSY: take completions first.
  [[nodiscard]] std::shared_ptr<Request> send(Order order);
  // Takes completions, without waiting.
  void poll();
  // Until `request` has its result, and its release if `released`; false at the time limit. Lets signals in.
  [[nodiscard]] bool wait(const Request& request, bool released, double timeout_s);
  [[nodiscard]] int event_fd() const { return kvpool_event_fd(get()); }
  [[nodiscard]] bool arm() { return kvpool_arm(get()) != 0; }
  // At once, or when there is room.
  void unpin(kvpool_pin pin);

 private:
  // What the pool has of a request. Not the request: that holds the consumer.
  struct Slot {
    std::unique_ptr<Order> order;
    std::weak_ptr<Request> request;
  };

  Consumer() = default;
  void end_requests(double timeout_s);
  void send_unpins();
  void take(const kvpool_completion& completion);

  std::shared_ptr<Pool> pool_;
  kvpool_consumer* consumer_ = nullptr;
  bool closing_ = false;  // one thread is, without the GIL
  bool closed_ = false;
  uint32_t lent_ = 0;
  std::vector<Slot> under_way_;  // by user_data
  std::vector<uint32_t> free_;
  std::vector<kvpool_pin> unpins_;
  uint32_t waiting_ = 0;  // threads in wait()
};

// A pinned run: while it is held, its blocks stay. The last owner gives it back.
class Pin {
 public:
  Pin(std::shared_ptr<Consumer> consumer, kvpool_pin pin, uint32_t ns, uint32_t blocks)
      : consumer_(std::move(consumer)), pin_(pin), ns_(ns), blocks_(blocks) {}
  Pin(const Pin&) = delete;
  Pin& operator=(const Pin&) = delete;
  ~Pin() { release(); }

  void release();
  [[nodiscard]] kvpool_pin number() const { return pin_; }  // 0: released
  [[nodiscard]] uint32_t blocks() const { return blocks_; }
  [[nodiscard]] bool is_of(const Pool& pool) const { return consumer_->pool()->id() == pool.id(); }
  [[nodiscard]] bool is_of(const Namespace& ns) const {
    return consumer_->pool()->id() == ns.pool && ns_ == ns.number;
  }
  // Its number, for a request that gives it back.
  [[nodiscard]] kvpool_pin take() { return std::exchange(pin_, 0); }

 private:
  std::shared_ptr<Consumer> consumer_;
  kvpool_pin pin_;
  uint32_t ns_;
  uint32_t blocks_;
};

struct Result {
  kvpool_status status = KVPOOL_OK;
  uint32_t blocks = 0;
  uint32_t segments = 0;
  uint64_t bytes = 0;
  double estimate_s = 0;
  std::shared_ptr<Pin> pin;
};

class Request {
 public:
  explicit Request(std::shared_ptr<Consumer> consumer) : consumer_(std::move(consumer)) {}

  [[nodiscard]] bool done() const { return result_.has_value(); }
  [[nodiscard]] bool cancelled() const { return result_ && result_->status == KVPOOL_CANCELLED; }
  [[nodiscard]] bool released() const { return released_; }
  // Raises TimeoutError at the time limit.
  [[nodiscard]] Result result(double timeout_s);
  void wait_released(double timeout_s);
  void cancel();
  [[nodiscard]] uint32_t progress() const;
  [[nodiscard]] const std::shared_ptr<Consumer>& consumer() const { return consumer_; }

 private:
  friend class Consumer;
  std::shared_ptr<Consumer> consumer_;
  kvpool_ticket ticket_ = 0;
  std::optional<Result> result_;
  bool released_ = false;
};

// Of 16 bytes each: a list of bytes, or one buffer of them all. Raises InvalidArgument.
[[nodiscard]] std::vector<kvpool_key> keys_from(nanobind::handle object);
[[nodiscard]] kvpool_key key_from(const nanobind::bytes& bytes);

void bind_consumer(nanobind::module_& module);
void bind_mover(nanobind::module_& module);

}  // namespace kvpool::python
