#include <gtest/gtest.h>

#include <memory>

#include "apps/allocations.h"
#include "apps/bench_machine.h"
#include "bench/engine_bench.h"

namespace kvpool {
namespace {

TEST(Allocations, AreCountedBetweenStartAndStop) {
  start_counting_allocations();
  const auto one = std::make_unique<std::array<int, 100>>();
  EXPECT_EQ(stop_counting_allocations(), 1);
  const auto other = std::make_unique<int>(one->at(0));
  EXPECT_EQ(stop_counting_allocations(), 1);
}

// Stores, retrieves, matches and unpins of several consumers, from the first one on.
TEST(BenchEngine, NothingAllocatesOnTheDataPath) {
  BenchMachine machine;
  const bench::EngineBenchOptions options{.consumers = 4,
                                          .windows = 1,
                                          .window = std::chrono::milliseconds(500),
                                          .catalog_blocks = {5000},
                                          .matches = 20};
  const auto result =
      bench::run_engine_bench(machine, options, {start_counting_allocations, stop_counting_allocations});
  ASSERT_TRUE(result.has_value()) << result.error().message;
  EXPECT_EQ(result->allocations, 0);
  EXPECT_GT(result->segments_per_s, 0);
  EXPECT_GT(result->match.at(0).us_p50, 0);
}

TEST(BenchEngine, ABlockOf32SegmentsWithTwoResidencesTakesAtMost256Bytes) {
  const auto bytes = bench::measure_bytes_per_block(1'000'000 / 64);
  ASSERT_TRUE(bytes.has_value()) << bytes.error().message;
  EXPECT_LE(*bytes, 256);
}

}  // namespace
}  // namespace kvpool
