// Work for a GPU that transfers have to share: about half a millisecond a launch on a Hopper GPU.
// Thread: any, with the device current. Failure: what the launch returned.

#pragma once

#include <driver_types.h>

#include <cstddef>
#include <cstdint>

namespace kvpool {

// Copies `bytes` within GPU memory.
[[nodiscard]] cudaError_t launch_memory_work(const std::byte* from, std::byte* to, uint64_t bytes,
                                             uint32_t blocks, cudaStream_t stream);
// Multiplies and adds in registers; writes nothing, as a rule.
[[nodiscard]] cudaError_t launch_arithmetic_work(std::byte* out, uint32_t blocks, cudaStream_t stream);

}  // namespace kvpool
