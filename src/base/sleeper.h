// Sleeper: how a thread passes the time until a descriptor is readable or something is due. A sleeper wakes
// some time after it should; by how much is learnt, and taken off: it sleeps that much less long, and does
// not sleep at all where what is due comes sooner than that.
//
// Thread: one.

#pragma once

#include <poll.h>

#include <algorithm>
#include <span>

#include "base/clock.h"

namespace kvpool {

class Sleeper {
 public:
  // A real clock. REQUIRES: it outlives this.
  explicit Sleeper(const Clock& clock) : clock_(clock) {}

  // Whether it is worth more to look again at once than to sleep.
  [[nodiscard]] bool is_near(Nanos due) {
    const Nanos left = due - clock_.now();
    if (left > wake_cost_) return false;
    // What was measured once does not hold for ever. Once for each time that is waited for.
    if (left > Nanos{0} && due != spun_for_) wake_cost_ -= wake_cost_ / 64;
    spun_for_ = due;
    return true;
  }
  // REQUIRES: is_near(due) was asked; `due` may be `never`.
  void sleep(std::span<pollfd> descriptors, Nanos due) {
    if (due == never) {
      ppoll(descriptors.data(), descriptors.size(), nullptr, nullptr);
      return;
    }
    const Nanos until = due - wake_cost_;
    const Nanos length = until - clock_.now();
    if (length <= Nanos{0}) return;
    const auto seconds = std::chrono::floor<std::chrono::seconds>(length);
    const timespec timeout{.tv_sec = seconds.count(), .tv_nsec = (length - seconds).count()};
    if (ppoll(descriptors.data(), descriptors.size(), &timeout, nullptr) != 0) return;
    const Nanos late = std::clamp(clock_.now() - until, Nanos{0}, wake_cost_max);
    wake_cost_ += (late - wake_cost_) / 8;
  }

 private:
  // A machine that wakes its sleepers later than that is busy with others: they get the time.
  static constexpr Nanos wake_cost_max{std::chrono::microseconds(50)};

  const Clock& clock_;
  Nanos wake_cost_{0};
  Nanos spun_for_{0};
};

}  // namespace kvpool
