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

}  // namespace
}  // namespace kvpool::bench
