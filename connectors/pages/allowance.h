// Allowance: how long somebody may still wait who wants to spend a hundredth of the time with that. What is
// not spent is saved, up to a limit; it begins full.
//
// Thread: one at a time.

#pragma once

#include <algorithm>
#include <chrono>

namespace kvpool::pages {

class Allowance {
 public:
  using Clock = std::chrono::steady_clock;
  Allowance(Clock::duration most, Clock::time_point now) : most_(most), left_(most), seen_(now) {}
  [[nodiscard]] Clock::duration left(Clock::time_point now) {
    left_ = std::min(most_, left_ + (now - seen_) / 100);
    seen_ = now;
    return left_;
  }
  void spend(Clock::duration spent) { left_ -= std::min(left_, spent); }

 private:
  Clock::duration most_;
  Clock::duration left_;
  Clock::time_point seen_;  // what has passed since then is not counted yet
};

}  // namespace kvpool::pages
