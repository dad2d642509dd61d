// engine_bench: the engine alone, on null devices, through the C API: how many segments a second it serves,
// how long a match of 512 blocks takes, and whether anything allocates meanwhile; and the catalog's memory.
//
// One thread drives all consumers and never sleeps, the engine's thread has a core of its own: on a machine
// with fewer than two idle cores the figures are the scheduler's. Failure: Result<> with the pool's words.

#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "bench/machine.h"

namespace kvpool::bench {

struct EngineBenchOptions {
  uint32_t consumers = 16;
  uint32_t windows = 5;  // of throughput; the median counts
  Nanos window{std::chrono::seconds(2)};
  std::vector<uint32_t> catalog_blocks = {10'000,
                                          1'000'000};  // each a catalog to match in, of chains and flat
  uint32_t matches = 2'000;                            // in each
};

// Counts the allocations of the whole process, where the program can.
struct AllocationCounter {
  std::function<void()> start;
  std::function<uint64_t()> stop;  // returns how many there were since start()
};

struct MatchTimes {
  uint32_t blocks = 0;     // in the catalog
  bool at_random = false;  // flat blocks from all over the catalog, the worst there is; else a chain
  double us_min = 0, us_p50 = 0, us_p99 = 0;
};

struct EngineBenchResult {
  double segments_per_s = 0;  // the median window
  double segments_per_s_min = 0;
  double segments_per_s_max = 0;
  std::vector<MatchTimes> match;  // of 512 blocks, by catalog; the last is the one that counts
  double bytes_per_block = 0;     // of the catalog: 32 segments on 4 devices, two residences, no checksums
  uint64_t allocations = 0;       // while retrieves, stores, matches and unpins were under way
};

// REQUIRES: the options' numbers are not 0; each catalog has at least 512 blocks.
[[nodiscard]] Result<EngineBenchResult> run_engine_bench(Machine& machine, const EngineBenchOptions& options,
                                                         const AllocationCounter& allocations);

// Bytes of the catalog for a block of 32 segments that lie on four devices, one of them memory, into which
// all that lies on the others has a second residence.
// The index has a power of two of entries, two to four a block, so that it depends on their number.
[[nodiscard]] Result<double> measure_bytes_per_block(uint32_t blocks);

[[nodiscard]] nlohmann::ordered_json engine_bench_json(const EngineBenchResult& result);
[[nodiscard]] std::string engine_bench_table(const EngineBenchResult& result);

}  // namespace kvpool::bench
