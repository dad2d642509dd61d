// Load: one device kept busy with requests of one kind, size and depth, and what it delivers then.
// run_loads() drives one or several at once.
//
// The number of requests in flight starts at one and grows with each completion, but not where a request
// already takes a good part of the whole time: a slow device would otherwise be handed work for seconds.
// The rate is counted between two completions, the first after a fifth of the time and the last before its
// end, so that neither the start nor the emptying of the queue is in it.
//
// In place, a request is the device's completion and then a copy by the transfer, out of the device for a
// read and into it for a write.
//
// Thread: the caller's. Failure: a request that fails or is short, or a device without any completion for
// stall_limit while it has requests, ends all loads with an error that names it.

#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "io/bounded_queue.h"
#include "io/device.h"
#include "probe/waiter.h"
#include "xfer/transfer.h"

namespace kvpool {

inline constexpr Nanos stall_limit = std::chrono::seconds(10);

struct LoadShape {
  IoKind kind = IoKind::read;
  bool random = true;  // each place of the range once, in random order, then again; else one after the other
  uint32_t size_bytes = 0;
  uint32_t depth = 1;
  uint64_t range_bytes = 0;     // [0, range) of the device
  std::span<std::byte> buffer;  // the other side
};

class Load {
 public:
  // `tag` tells its copies from those of other loads. REQUIRES: range and buffer hold one request at least;
  // all are aligned as the device wants.
  Load(Device& device, Transfer& transfer, uint32_t tag, const LoadShape& shape);

  void begin(Nanos now, Nanos stop_at);
  void stop(Nanos now) { stop_at_ = std::min(stop_at_, now); }
  // Takes completions and submits. True: something has happened.
  [[nodiscard]] bool step(Nanos now);
  void copied(const TransferCompletion& completion, Nanos now);

  [[nodiscard]] Device& device() const { return *device_; }
  [[nodiscard]] bool idle(Nanos now) const { return in_flight_ == 0 && (now >= stop_at_ || !status_); }
  [[nodiscard]] bool stuck(Nanos now) const { return in_flight_ > 0 && now >= stuck_at(); }
  [[nodiscard]] Nanos stuck_at() const { return moved_at_ + stall_limit; }
  // Ends the load with an error if it is stuck.
  void check_stuck(Nanos now);
  [[nodiscard]] uint32_t in_flight() const { return in_flight_; }
  [[nodiscard]] Nanos stop_at() const { return stop_at_; }
  [[nodiscard]] const Status& status() const { return status_; }
  [[nodiscard]] const LoadShape& shape() const { return shape_; }

  [[nodiscard]] double bytes_per_second() const;
  [[nodiscard]] Nanos median_latency() const;
  // The most requests that were in flight: fewer than shape().depth if the device was too slow for the time.
  [[nodiscard]] uint32_t depth_reached() const { return depth_reached_; }
  // [0, this) has been submitted at least once; for loads that are not random.
  [[nodiscard]] uint64_t covered_bytes() const;

 private:
  struct Slot {
    Nanos submitted_at{0};
    std::byte* in_place = nullptr;
  };

  [[nodiscard]] bool submit_more(Nanos now);
  [[nodiscard]] uint64_t next_offset() const;
  void arrived(const IoCompletion& completion, Nanos now);
  [[nodiscard]] bool copy(uint32_t slot);
  void finish(uint32_t slot, Nanos now);
  void fail_request(Errc code, Nanos now);

  Device* device_;
  Transfer* transfer_;
  uint64_t tag_;
  LoadShape shape_;
  bool in_place_;
  std::vector<uint32_t> order_;  // of places in the range; empty if not random
  std::vector<Slot> slots_;      // one a piece of the buffer
  BoundedQueue<uint32_t> free_;  // first in, first out: the whole buffer is gone through
  BoundedQueue<uint32_t> uncopied_;
  std::vector<Nanos> latencies_;
  Status status_;

  uint32_t window_ = 1;
  uint32_t in_flight_ = 0;
  uint32_t depth_reached_ = 0;
  uint64_t submitted_ = 0;
  uint64_t completed_ = 0;
  Nanos began_at_{0};
  Nanos stop_at_{0};
  Nanos moved_at_{0};
  // Completions up to a time: the first one counted from, the last one before the end, the very last one.
  Nanos mark_at_{0};
  uint64_t mark_ = 0;
  Nanos last_at_{0};
  uint64_t last_ = 0;
};

// Runs the loads for `duration`, and until nothing is in flight. On an error all but stuck devices are
// drained.
[[nodiscard]] Status run_loads(const Clock& clock, Waiter& waiter, Transfer& transfer, std::span<Load> loads,
                               Nanos duration);

}  // namespace kvpool
