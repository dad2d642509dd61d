// One device kept busy with requests of one size and depth, as fio and spdk_nvme_perf do it: what it
// delivers, and what that costs. What it holds is overwritten.
//
// Thread: one. Failure: Result with the words of whoever refused, or of a request that failed.

#pragma once

#include <string>

#include "base/clock.h"
#include "base/result.h"
#include "bench/machine.h"
#include "bench/system_time.h"

namespace kvpool::bench {

struct DeviceBenchOptions {
  bool write = false;
  bool random = true;
  // Larger requests than the device takes go to it in pieces, all of a request's at once.
  uint32_t size_bytes = 1U << 20;
  uint32_t depth = 32;
  Nanos duration{std::chrono::seconds(3)};
};

struct DeviceBenchResult {
  std::string device;
  uint32_t command_bytes = 0;  // what goes to the device at once
  uint32_t commands = 0;       // under way
  double bytes_per_second = 0;
  Nanos command_latency{0};  // median
  CpuTime cpu;
  double seconds = 0;
};

// REQUIRES: config has one device.
[[nodiscard]] Result<DeviceBenchResult> run_device_bench(Machine& machine, Config config,
                                                         const DeviceBenchOptions& options);

}  // namespace kvpool::bench
