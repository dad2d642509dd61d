// The Clock seam: what time the engine believes it is. One real clock, and a virtual one that the simulator
// steps by hand. Times are nanoseconds since an epoch of the clock's own.

#pragma once

#include <chrono>

namespace kvpool {

using Nanos = std::chrono::nanoseconds;
inline constexpr Nanos never = Nanos::max();

class Clock {
 public:
  Clock() = default;
  Clock(const Clock&) = delete;
  Clock& operator=(const Clock&) = delete;
  virtual ~Clock() = default;
  [[nodiscard]] virtual Nanos now() const = 0;
};

// CLOCK_MONOTONIC. Any thread.
class SteadyClock final : public Clock {
 public:
  [[nodiscard]] Nanos now() const override {
    return std::chrono::duration_cast<Nanos>(std::chrono::steady_clock::now().time_since_epoch());
  }
};

// Moves only when told to. One thread.
class VirtualClock final : public Clock {
 public:
  [[nodiscard]] Nanos now() const override { return now_; }
  // REQUIRES: time >= now().
  void advance_to(Nanos time) { now_ = time; }

 private:
  Nanos now_{0};
};

}  // namespace kvpool
