#include "xfer/cuda/plugin/hardware/cuda_faults.h"

#include <cuda_runtime_api.h>

namespace kvpool {
namespace {

int calls_before_fault = -1;
int calls = 0;

bool fails() { return calls++ == calls_before_fault; }

}  // namespace

void fail_cuda_after(int calls_before) {
  calls_before_fault = calls_before;
  calls = 0;
}

int cuda_calls() { return calls; }

}  // namespace kvpool

// The names are the linker's.
// NOLINTBEGIN(bugprone-reserved-identifier)
extern "C" {

cudaError_t __real_cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                                   cudaStream_t stream);
cudaError_t __wrap_cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                                   cudaStream_t stream) {
  return kvpool::fails() ? cudaErrorMemoryAllocation : __real_cudaMemcpyAsync(to, from, bytes, kind, stream);
}

#if CUDART_VERSION >= 13000
cudaError_t __real_cudaMemcpyBatchAsync(void* const* to, const void* const* from, const size_t* bytes,
                                        size_t count, cudaMemcpyAttributes* attributes, size_t* firsts,
                                        size_t attributes_count, cudaStream_t stream);
cudaError_t __wrap_cudaMemcpyBatchAsync(void* const* to, const void* const* from, const size_t* bytes,
                                        size_t count, cudaMemcpyAttributes* attributes, size_t* firsts,
                                        size_t attributes_count, cudaStream_t stream) {
  return kvpool::fails() ? cudaErrorMemoryAllocation
                         : __real_cudaMemcpyBatchAsync(to, from, bytes, count, attributes, firsts,
                                                       attributes_count, stream);
}
#elif CUDART_VERSION >= 12080
cudaError_t __real_cudaMemcpyBatchAsync(void** to, void** from, size_t* bytes, size_t count,
                                        cudaMemcpyAttributes* attributes, size_t* firsts,
                                        size_t attributes_count, size_t* failed, cudaStream_t stream);
cudaError_t __wrap_cudaMemcpyBatchAsync(void** to, void** from, size_t* bytes, size_t count,
                                        cudaMemcpyAttributes* attributes, size_t* firsts,
                                        size_t attributes_count, size_t* failed, cudaStream_t stream) {
  return kvpool::fails() ? cudaErrorMemoryAllocation
                         : __real_cudaMemcpyBatchAsync(to, from, bytes, count, attributes, firsts,
                                                       attributes_count, failed, stream);
}
#endif

cudaError_t __real_cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t __wrap_cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return kvpool::fails() ? cudaErrorMemoryAllocation : __real_cudaEventRecord(event, stream);
}

cudaError_t __real_cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t __wrap_cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
  return kvpool::fails() ? cudaErrorMemoryAllocation : __real_cudaStreamWaitEvent(stream, event, flags);
}

cudaError_t __real_cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* kernel,
                                       void** arguments);
cudaError_t __wrap_cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* kernel,
                                       void** arguments) {
  return kvpool::fails() ? cudaErrorMemoryAllocation : __real_cudaLaunchKernelExC(config, kernel, arguments);
}

cudaError_t __real_cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data);
cudaError_t __wrap_cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  return kvpool::fails() ? cudaErrorMemoryAllocation : __real_cudaLaunchHostFunc(stream, function, data);
}

}  // extern "C"
// NOLINTEND(bugprone-reserved-identifier)
