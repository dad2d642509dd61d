// How long copies of others wait beside a transfer: an engine has a few in every step, small ones, each with
// a kernel behind it, and asks for nothing more until they have ended.
//
// Thread: one; another one copies during beside(). Failure: a Result.

#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "xfer/cuda/gpu_transfer.h"
#include "xfer/cuda/plugin/bench/runner.h"
#include "xfer/cuda/plugin/bench/workload.h"
#include "xfer/cuda/plugin/cuda_handles.h"

namespace kvpool {

class OtherCopies {
 public:
  [[nodiscard]] Status open(int device);

  struct Waits {
    size_t count = 0;
    double median_us = 0;
    double longest_us = 0;
  };
  // Copies of that size (bytes_max at most), in the direction of a transfer, with nothing beside them.
  [[nodiscard]] Result<Waits> alone(GpuDirection direction, uint64_t bytes);

  struct Beside {
    Waits others;
    RunTimes transfer;
  };
  [[nodiscard]] Result<Beside> beside(GpuDirection direction, uint64_t bytes, GpuTransfer& transfer,
                                      const Workload& workload);

  static constexpr uint64_t bytes_max = 1 << 20;

 private:
  [[nodiscard]] cudaError_t once(GpuDirection direction, uint64_t bytes, std::vector<double>& waits_us);

  int device_ = 0;
  Stream stream_;
  Event done_;
  DeviceMemory memory_;
  Pinned<std::byte> host_;
};

}  // namespace kvpool
