// Kernels for tests: slow ones, and one that ends its CUDA context.
// Thread: any, with the device current. Failure: what the launch returned.

#pragma once

#include <driver_types.h>

#include <cstddef>
#include <cstdint>

namespace kvpool {

// Waits, then writes `value` to all those bytes.
[[nodiscard]] cudaError_t launch_slow_fill(std::byte* to, uint64_t bytes, uint8_t value, uint64_t wait_ms,
                                           cudaStream_t stream);
// Ends when `open` is not 0, or after 30 s.
[[nodiscard]] cudaError_t launch_gate(const uint32_t* open, cudaStream_t stream);
[[nodiscard]] cudaError_t launch_trap(cudaStream_t stream);

}  // namespace kvpool
