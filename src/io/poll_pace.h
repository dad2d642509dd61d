// PollPace: when to look next at a device that announces nothing, so that its thread may sleep in between.
//
// A command that the device has all to itself is not looked for before it can be there, by the device's own
// latencies so far; from then on, and under load, looks follow each other by `slack` of a command's latency.
// So a completion is found late by that part of its own latency at most, whatever the device's speed.
//
// The estimate: mean and mean deviation of the latencies, smoothed as in TCP (Jacobson 1988), the early end
// three deviations below the mean of commands that were alone; how it was under load says nothing of those. A
// late look makes a fast device seem slow; a command that is there at the very first look therefore counts as
// a quarter faster than it was found.
//
// Thread: its device's. Nothing allocates.

#pragma once

#include <algorithm>
#include <cstdint>

#include "base/clock.h"

namespace kvpool {

class PollPace {
 public:
  // 0: look all the time.
  explicit PollPace(double slack) : slack_(slack) {}

  // What was given to the device may have to be sent by a look: the next one is due at once.
  void submitted(Nanos now) {
    alone_ = in_flight_++ == 0;
    not_before_ = alone_ ? now + early() : now;
    next_look_ = Nanos{0};
  }
  // Of a command that was submitted at that time, during the look at `now`.
  void completed(Nanos submitted_at, Nanos now) {
    --in_flight_;
    const Nanos latency = now - submitted_at;
    all_.add(latency);
    if (alone_) lone_.add(first_look_ ? latency * 3 / 4 : latency);
  }
  // After a look. The sends of one that came before anything could be there do not count as the first.
  void looked(Nanos now) {
    if (in_flight_ == 0) return;
    first_look_ = now < not_before_;
    next_look_ = std::max(now + std::min(step(), look_max), std::min(not_before_, now + look_max));
  }
  // `never` with nothing under way; what is past means now.
  [[nodiscard]] Nanos next_look() const { return in_flight_ == 0 ? never : next_look_; }
  [[nodiscard]] uint32_t in_flight() const { return in_flight_; }

 private:
  // A device that hangs must be found out, and one that got faster.
  static constexpr Nanos look_max{std::chrono::milliseconds(1)};

  struct Estimate {
    Nanos mean{0};  // 0: nothing is known
    Nanos deviation{0};
    void add(Nanos latency) {
      if (mean == Nanos{0}) {
        mean = std::max(Nanos{1}, latency);
        deviation = latency / 2;
        return;
      }
      const Nanos error = latency - mean;
      mean = std::max(Nanos{1}, mean + error / 8);
      deviation += ((error < Nanos{0} ? -error : error) - deviation) / 4;
    }
  };

  [[nodiscard]] Nanos early() const {
    return slack_ > 0 ? std::max(Nanos{0}, lone_.mean - 3 * lone_.deviation) : Nanos{0};
  }
  // Under load a command waits for others in the device, and takes longer than one alone.
  [[nodiscard]] Nanos step() const {
    const Nanos mean = alone_ ? lone_.mean : all_.mean;
    return Nanos(static_cast<Nanos::rep>(static_cast<double>(mean.count()) * slack_));
  }

  double slack_;
  uint32_t in_flight_ = 0;
  bool alone_ = false;
  bool first_look_ = true;
  Estimate lone_;  // of commands that had the device to themselves
  Estimate all_;
  Nanos not_before_{0};
  Nanos next_look_{0};
};

}  // namespace kvpool
