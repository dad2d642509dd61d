#include "bench/simulate.h"

#include <gtest/gtest.h>

namespace kvpool::bench {
namespace {

// Virtual time: the same numbers on every machine.
TEST(Simulate, ARetrieveReaches97PercentOfWhatTheDevicesCan) {
  const SimulateResult result = simulate({.mixes = 20, .seed = 1});
  EXPECT_GE(result.fraction_worst, 0.97)
      << "mix " << result.worst.seed << ", concurrency " << result.worst.concurrency;
  EXPECT_LE(result.fraction_median, 1.0);
}

// The link bounds, and a fast device shares it with slow ones: their parts must not fill the transfer's
// queue.
TEST(Simulate, SlowDevicesDoNotHoldAFastOneUpAtTheLink) {
  EXPECT_GE(simulate_mix(902, 1, 80).fraction, 0.98);
  EXPECT_GE(simulate_mix(82, 16, 80).fraction, 0.98);
}

}  // namespace
}  // namespace kvpool::bench
