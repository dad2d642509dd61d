// simulate: retrieves from simulated pools in virtual time, against what the devices and the link together
// could do. The engine is the real one; nothing is copied, so a thousand pools take a minute or two.

#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace kvpool::bench {

struct SimulateOptions {
  uint32_t mixes = 200;
  uint64_t seed = 1;
  uint32_t segments_on_slowest = 80;  // at least
};

struct SimulatedMix {
  uint64_t seed = 0;
  uint32_t concurrency = 0;
  std::vector<double> device_bytes_per_second;
  double link_bytes_per_second = 0;  // 0: it does not bound
  uint32_t segments = 0;
  double fraction = 0;  // of min(link, sum of the devices)
};

struct SimulateResult {
  uint32_t mixes = 0;
  double fraction_worst = 1;
  double fraction_median = 1;
  SimulatedMix worst;
};

// One mix: 2 to 8 devices, the fastest at most 16 times the slowest, each latency at most 1% of the ideal
// time. REQUIRES: concurrency > 0.
[[nodiscard]] SimulatedMix simulate_mix(uint64_t seed, uint32_t concurrency, uint32_t segments_on_slowest);

// Each mix with 1 and with 16 requests at once.
[[nodiscard]] SimulateResult simulate(const SimulateOptions& options);

}  // namespace kvpool::bench
