// Thousands of pools in virtual time, each from one seed. A failing seed is printed; run it again with
// KVPOOL_SIM_SEED=<seed> and, for one with faults, KVPOOL_SIM_FAULTS=1.

#include <gtest/gtest.h>

#include <cstdlib>

#include "actor.h"
#include "world.h"

namespace kvpool::sim {
namespace {

// Of each kind. Sanitizers make it several times slower.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr uint64_t seeds = 200;
#else
constexpr uint64_t seeds = 1500;
#endif

struct Totals {
  uint64_t stored = 0;
  uint64_t retrieved = 0;
  uint64_t timed_out = 0;
  EngineCounters counters;
  uint64_t evicted = 0;
  uint64_t retired = 0;
  uint64_t discarded_bytes = 0;
  uint64_t left_in_place = 0;
};

void run_seed(uint64_t seed, bool faults, Totals& totals) {
  World world({.seed = seed, .faults = faults});
  const std::string failure = world.run();
  ASSERT_EQ(failure, "") << "run again with KVPOOL_SIM_SEED=" << seed
                         << (faults ? " KVPOOL_SIM_FAULTS=1" : "");
  for (const auto& actor : world.actors()) {
    totals.stored += actor->counts().stored_blocks;
    totals.retrieved += actor->counts().retrieved_blocks;
    totals.timed_out += actor->counts().timed_out;
    totals.left_in_place += actor->counts().left_in_place;
  }
  totals.counters.checksum_errors += world.engine().counters().checksum_errors;
  totals.counters.io_errors += world.engine().counters().io_errors;
  totals.counters.short_ios += world.engine().counters().short_ios;
  for (uint8_t device = 0; device < world.engine().profile().devices.size(); ++device) {
    totals.discarded_bytes += world.engine().device_counters(DeviceId(device)).discarded_bytes;
  }
  totals.evicted += world.catalog().counters().evicted_blocks;
  totals.retired += world.catalog().counters().retired_blocks;
}

Totals run_all(bool faults) {
  Totals totals;
  if (const char* one = std::getenv("KVPOOL_SIM_SEED"); one != nullptr) {
    if ((std::getenv("KVPOOL_SIM_FAULTS") != nullptr) == faults)
      run_seed(std::strtoull(one, nullptr, 10), faults, totals);
    return totals;
  }
  for (uint64_t seed = 1; seed <= seeds && !testing::Test::HasFatalFailure(); ++seed)
    run_seed(seed, faults, totals);
  return totals;
}

// What happened is asserted too: a simulator in which nothing happens finds nothing.
TEST(Simulation, WithoutFaultsEverythingComesBackRight) {
  const Totals totals = run_all(false);
  if (HasFatalFailure() || std::getenv("KVPOOL_SIM_SEED") != nullptr) return;
  EXPECT_GT(totals.stored, seeds * 20);
  EXPECT_GT(totals.retrieved, seeds * 10);
  EXPECT_GT(totals.evicted, seeds);
  EXPECT_GT(totals.timed_out, 0);
  EXPECT_GT(totals.discarded_bytes, seeds * 4096 * 10);
  EXPECT_GT(totals.left_in_place, seeds);
  EXPECT_EQ(totals.counters.checksum_errors, 0);
}

TEST(Simulation, WithFaultsNothingWrongIsDeliveredAndEverythingEnds) {
  const Totals totals = run_all(true);
  if (HasFatalFailure() || std::getenv("KVPOOL_SIM_SEED") != nullptr) return;
  EXPECT_GT(totals.retrieved, seeds * 5);
  EXPECT_GT(totals.left_in_place, seeds);
  EXPECT_GT(totals.counters.checksum_errors, seeds / 20);
  EXPECT_GT(totals.counters.io_errors, seeds / 20);
  EXPECT_GT(totals.counters.short_ios, seeds / 20);
  EXPECT_GT(totals.retired, seeds / 20);
}

}  // namespace
}  // namespace kvpool::sim
