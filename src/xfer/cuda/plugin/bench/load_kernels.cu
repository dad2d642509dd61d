#include <cuda_runtime.h>

#include "xfer/cuda/plugin/bench/load_kernels.h"

namespace kvpool {
namespace {

constexpr uint32_t threads = 256;
constexpr int rounds = 40'000;

__global__ void memory_work(const uint4* from, uint4* to, uint64_t words) {
  const uint64_t stride = static_cast<uint64_t>(gridDim.x) * blockDim.x;
  for (uint64_t i = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < words; i += stride) {
    to[i] = from[i];
  }
}

__global__ void arithmetic_work(float* out, float step) {
  float a = static_cast<float>(threadIdx.x);
  float b = a + 1.0F;
  for (int i = 0; i < rounds; ++i) {
    a = a * step + b;
    b = b * step + a;
  }
  if (a + b == 12345.678F) *out = a;
}

cudaError_t launch_shape(uint32_t blocks, cudaStream_t stream, auto kernel, auto... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(blocks);
  config.blockDim = dim3(threads);
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

}  // namespace

cudaError_t launch_memory_work(const std::byte* from, std::byte* to, uint64_t bytes, uint32_t blocks,
                               cudaStream_t stream) {
  return launch_shape(blocks, stream, memory_work, reinterpret_cast<const uint4*>(from),
                      reinterpret_cast<uint4*>(to), bytes / sizeof(uint4));
}

cudaError_t launch_arithmetic_work(std::byte* out, uint32_t blocks, cudaStream_t stream) {
  return launch_shape(blocks, stream, arithmetic_work, reinterpret_cast<float*>(out), 0.5F);
}

}  // namespace kvpool
