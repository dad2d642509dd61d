#include <cuda_runtime.h>

#include "xfer/cuda/plugin/hardware/test_kernels.h"

namespace kvpool {
namespace {

__device__ uint64_t now_ns() {
  uint64_t now = 0;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  return now;
}

__global__ void slow_fill(uint8_t* to, uint64_t bytes, uint8_t value, uint64_t wait_ns) {
  const uint64_t start = now_ns();
  do {
    __nanosleep(1000);
  } while (now_ns() - start < wait_ns);
  for (uint64_t i = threadIdx.x; i < bytes; i += blockDim.x) to[i] = value;
}

__global__ void gate(const volatile uint32_t* open) {
  const uint64_t start = now_ns();
  while (*open == 0 && now_ns() - start < 30'000'000'000) __nanosleep(1000);
}

__global__ void trap() { __trap(); }

cudaError_t launch_one_block(cudaStream_t stream, auto kernel, auto... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(1);
  config.blockDim = dim3(256);
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

}  // namespace

cudaError_t launch_slow_fill(std::byte* to, uint64_t bytes, uint8_t value, uint64_t wait_ms,
                             cudaStream_t stream) {
  return launch_one_block(stream, slow_fill, reinterpret_cast<uint8_t*>(to), bytes, value,
                          wait_ms * 1'000'000);
}

cudaError_t launch_gate(const uint32_t* open, cudaStream_t stream) {
  return launch_one_block(stream, gate, open);
}

cudaError_t launch_trap(cudaStream_t stream) { return launch_one_block(stream, trap); }

}  // namespace kvpool
