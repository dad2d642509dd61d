// The kernel that carries pieces between a ring in GPU memory and pages. It goes by addresses alone.
//
// Thread: any, with the stream's device current. Failure: what CUDA returned; what goes wrong in the kernel
// shows at the stream's next event. A list of pieces stays as it is until the kernel has ended.

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

// CUDA would load the kernel at its first launch, and may wait for other work on the device then.
[[nodiscard]] cudaError_t prepare_copy();

}  // namespace kvpool
