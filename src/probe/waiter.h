// Waiter: how a measuring thread passes the time until a device or a transfer may have something. The real
// one sleeps; with simulated devices one that steps a virtual clock takes its place.
// Thread: the caller's.

#pragma once

#include <span>

#include "base/clock.h"
#include "base/sleeper.h"
#include "io/device.h"
#include "xfer/transfer.h"

namespace kvpool {

class Waiter {
 public:
  Waiter() = default;
  Waiter(const Waiter&) = delete;
  Waiter& operator=(const Waiter&) = delete;
  virtual ~Waiter() = default;

  // Returns when poll() of one of them may find something, at `until` at the latest, or earlier for no
  // reason. REQUIRES: called between the transfer's prepare_wait() and done_wait(), after a look at all of
  // them.
  virtual void wait(std::span<Device* const> devices, const Transfer& transfer, Nanos until) = 0;
};

// Sleeps in ppoll(2). REQUIRES: clock outlives it and is a real one.
class PollWaiter final : public Waiter {
 public:
  explicit PollWaiter(const Clock& clock) : sleeper_(clock) {}
  void wait(std::span<Device* const> devices, const Transfer& transfer, Nanos until) override;

 private:
  Sleeper sleeper_;
};

}  // namespace kvpool
