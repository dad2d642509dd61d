// The kernels that carry pieces between a ring in GPU memory and pages, and sum what lies in pages. They go
// by addresses alone.
//
// Thread: any, with the stream's device current. Failure: what CUDA returned; what goes wrong in a kernel
// shows at the stream's next event. Lists stay as they are until the kernel has ended.

#pragma once

#include <driver_types.h>

#include <cstdint>

#include "xfer/cuda/copy_piece.h"

namespace kvpool {

struct PieceLaunch {
  const CopyPiece* pieces = nullptr;  // pinned memory; `host` is an address in the ring
  uint32_t count = 0;                 // above 0
  bool to_device = true;              // ring to pages; else back
  cudaStream_t stream = nullptr;
};

// Any address and length.
[[nodiscard]] cudaError_t launch_copy(const PieceLaunch& launch);

struct CheckLaunch {
  const CopyPiece* pieces = nullptr;       // pinned memory; `device` is a multiple of 16, `bytes` of 1 KiB
  const CheckedPieces* checked = nullptr;  // pinned memory
  uint32_t count = 0;                      // of them; above 0
  uint32_t* wrong = nullptr;               // pinned memory; becomes 1 where a sum is another one
  cudaStream_t stream = nullptr;
};

[[nodiscard]] cudaError_t launch_check(const CheckLaunch& launch);

// CUDA would load a kernel at its first launch, and may wait for other work on the device then.
[[nodiscard]] cudaError_t prepare_kernels();

}  // namespace kvpool
