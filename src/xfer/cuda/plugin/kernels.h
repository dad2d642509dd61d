// The kernels that carry pieces between host memory and GPU memory, both of which they reach by address.
//
// Thread: any, with the stream's device current. Failure: what the launch returned; what goes wrong in a
// kernel shows at the stream's next event. A list of pieces stays as it is until the kernel has ended.

#pragma once

#include <driver_types.h>

#include <cstdint>

#include "xfer/cuda/copy_piece.h"

namespace kvpool {

struct PieceLaunch {
  const CopyPiece* pieces = nullptr;  // pinned memory
  uint32_t count = 0;                 // above 0
  bool to_device = true;              // host to device; else back
  uint32_t blocks = 0;                // at most; above 0
  cudaStream_t stream = nullptr;
};

// Threads load and store; any address and length.
[[nodiscard]] cudaError_t launch_copy(const PieceLaunch& launch);

// Bulk copies through shared memory. REQUIRES: compute capability 9.0, prepare_bulk() was called, all
// addresses and lengths are multiples of 16.
[[nodiscard]] cudaError_t launch_bulk(const PieceLaunch& launch);
[[nodiscard]] cudaError_t prepare_bulk();

}  // namespace kvpool
