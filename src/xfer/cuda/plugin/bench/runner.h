// Runs a workload through a GpuTransfer, as an owner thread would: submits while there is room, takes
// completions, sleeps on the eventfd when there is nothing to do.
//
// Thread: one. Failure: a Result; a page that is not what it should be is one.

#pragma once

#include <cstdint>

#include "base/result.h"
#include "xfer/cuda/gpu_transfer.h"
#include "xfer/cuda/plugin/bench/link.h"
#include "xfer/cuda/plugin/bench/workload.h"

namespace kvpool {

struct RunTimes {
  uint64_t bytes = 0;
  double seconds = 0;
  double cpu_seconds = 0;     // of the whole process
  double submit_seconds = 0;  // within submit()
  uint64_t batches = 0;
};

struct RunOptions {
  Directions directions;
  size_t batches_max = SIZE_MAX;  // of each direction
  bool checks = true;             // pages chosen at random, poisoned before and compared after
};

[[nodiscard]] Result<RunTimes> run_workload(GpuTransfer& transfer, const Workload& workload,
                                            const RunOptions& options);

// One batch after the other, alone: median microseconds of submit(), and from there to its completion.
struct SmallTimes {
  double submit_us = 0;
  double total_us = 0;
};
[[nodiscard]] Result<SmallTimes> run_small(GpuTransfer& transfer, const PagedBatch& batch, size_t times);

}  // namespace kvpool
