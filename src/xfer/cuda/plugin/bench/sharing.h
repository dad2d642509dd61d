// What a transfer costs other work on the same GPU, and the other way round: kernels that fill all
// multiprocessors, with memory traffic or with arithmetic, alone and beside a transfer.
//
// Thread: one. Failure: a Result.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/result.h"
#include "xfer/cuda/gpu_transfer.h"
#include "xfer/cuda/plugin/bench/runner.h"
#include "xfer/cuda/plugin/bench/workload.h"
#include "xfer/cuda/plugin/cuda_handles.h"

namespace kvpool {

enum class OtherWork : uint8_t { memory, arithmetic };
[[nodiscard]] std::string to_string(OtherWork work);

// Of the lowest priority, as an engine's: the default one.
[[nodiscard]] Status make_engine_stream(Stream& stream);

class Sharing {
 public:
  [[nodiscard]] Status open(int device);
  // Milliseconds that the other work takes alone.
  [[nodiscard]] Result<double> alone_ms(OtherWork work);

  struct Beside {
    double other_ms = 0;  // of the other work
    RunTimes transfer;
  };
  [[nodiscard]] Result<Beside> beside(OtherWork work, GpuTransfer& transfer, const Workload& workload,
                                      Directions directions);

 private:
  [[nodiscard]] cudaError_t launch(OtherWork work);
  [[nodiscard]] Result<double> wait_ms();

  static constexpr uint64_t half_bytes = 512 << 20;
  int multiprocessors_ = 0;
  DeviceMemory memory_;
  Stream stream_;
  Event begin_;
  Event end_;
};

}  // namespace kvpool
