// simulate: retrieves from simulated pools in virtual time, against what the devices and the link together
// could do. The engine is the real one; nothing is copied, so a thousand pools take a minute or two.

#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/clock.h"

namespace kvpool::bench {

inline constexpr double fraction_bar = 0.97;

struct SimulateOptions {
  uint32_t mixes = 200;
  uint64_t seed = 1;
  uint32_t segments_on_slowest = 80;  // at least
};

struct SimulatedMix {
  uint64_t seed = 0;
  uint32_t concurrency = 0;
  std::vector<double> device_bytes_per_second;
  std::vector<Nanos> device_latency;
  double link_bytes_per_second = 0;  // 0: it does not bound
  uint32_t segments = 0;
  double fraction = 0;  // of min(link, sum of the devices)
};

struct SimulateResult {
  uint32_t mixes = 0;
  // Over all mixes, at both concurrencies: the worst, the first percentile, the tenth, the median.
  double fraction_worst = 1;
  double fraction_p1 = 1;
  double fraction_p10 = 1;
  double fraction_median = 1;
  uint32_t below_bar = 0;  // of 2 x mixes: those under fraction_bar
  SimulatedMix worst;
};

// One mix: 2 to 8 devices, the fastest at most 16 times the slowest, each latency up to 1% of the ideal
// time. REQUIRES: concurrency > 0.
[[nodiscard]] SimulatedMix simulate_mix(uint64_t seed, uint32_t concurrency, uint32_t segments_on_slowest);

// Each mix with 1 and with 16 requests at once; `progress` is told how many mixes are done.
// REQUIRES: options.mixes > 0.
[[nodiscard]] SimulateResult simulate(const SimulateOptions& options,
                                      const std::function<void(uint32_t)>& progress = {});

[[nodiscard]] nlohmann::ordered_json simulate_json(const SimulateResult& result);
[[nodiscard]] std::string simulate_table(const SimulateResult& result);

}  // namespace kvpool::bench
