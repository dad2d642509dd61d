// InFlight: for how long at least one thing was under way, and for how long all of them together.
//
// Thread: one tells it; busy() and total() may be read from any. Failure: none.

#pragma once

#include <atomic>
#include <cstddef>

#include "base/clock.h"

namespace kvpool::bench {

class InFlight {
 public:
  void begin(Nanos now) {
    count(now);
    if (under_way_++ == 0) busy_since_ = now;
  }
  // True: nothing is under way any more. REQUIRES: count of them are under way.
  bool end(Nanos now, size_t count_ended) {
    count(now);
    under_way_ -= count_ended;
    if (under_way_ > 0) return false;
    add(busy_ns_, now - busy_since_);
    return true;
  }

  [[nodiscard]] Nanos busy_since() const { return busy_since_; }
  // Up to the last time at which nothing was under way any more.
  [[nodiscard]] Nanos busy() const { return Nanos(busy_ns_.load(std::memory_order_relaxed)); }
  // Each thing's time, from its beginning to its end, added up; up to the last change.
  [[nodiscard]] Nanos total() const { return Nanos(total_ns_.load(std::memory_order_relaxed)); }

 private:
  static void add(std::atomic<int64_t>& counter, Nanos time) {  // one writer
    counter.store(counter.load(std::memory_order_relaxed) + time.count(), std::memory_order_relaxed);
  }
  void count(Nanos now) {
    add(total_ns_, (now - changed_at_) * static_cast<int64_t>(under_way_));
    changed_at_ = now;
  }

  size_t under_way_ = 0;
  Nanos busy_since_{0};
  Nanos changed_at_{0};
  std::atomic<int64_t> busy_ns_{0};
  std::atomic<int64_t> total_ns_{0};
};

}  // namespace kvpool::bench
