#include "xfer/cuda/plugin/cuda_handles.h"

namespace kvpool {

std::string cuda_words(cudaError_t error, const std::string& what) {
  (void)cudaGetLastError();
  return what + ": " + cudaGetErrorString(error) + " (" + cudaGetErrorName(error) + ")";
}

tl::unexpected<Error> fail_cuda(cudaError_t error, const std::string& what) {
  const bool missing = error == cudaErrorNoDevice || error == cudaErrorInsufficientDriver ||
                       error == cudaErrorInvalidDevice || error == cudaErrorNoKernelImageForDevice;
  return fail(missing ? Errc::unsupported : Errc::system, cuda_words(error, what));
}

Status make_stream(Stream& stream) {
  int lowest = 0;
  int highest = 0;
  cudaError_t error = cudaDeviceGetStreamPriorityRange(&lowest, &highest);
  cudaStream_t made = nullptr;
  if (error == cudaSuccess) error = cudaStreamCreateWithPriority(&made, cudaStreamNonBlocking, highest);
  if (error != cudaSuccess) return fail_cuda(error, "a CUDA stream");
  stream.reset(made);
  return {};
}

Status make_event(Event& event) {
  cudaEvent_t made = nullptr;
  const cudaError_t error = cudaEventCreateWithFlags(&made, cudaEventDisableTiming);
  if (error != cudaSuccess) return fail_cuda(error, "a CUDA event");
  event.reset(made);
  return {};
}

Status make_device_memory(DeviceMemory& memory, uint64_t bytes) {
  void* taken = nullptr;
  const cudaError_t error = cudaMalloc(&taken, bytes);
  if (error != cudaSuccess) return fail_cuda(error, "cudaMalloc of " + std::to_string(bytes) + " bytes");
  memory.reset(static_cast<std::byte*>(taken));
  return {};
}

DeviceGuard::DeviceGuard(int device) : device_(device) {
  if (cudaGetDevice(&before_) != cudaSuccess) before_ = -1;
  if (before_ != device_) (void)cudaSetDevice(device_);
  (void)cudaThreadExchangeStreamCaptureMode(&mode_);
}

DeviceGuard::~DeviceGuard() {
  (void)cudaThreadExchangeStreamCaptureMode(&mode_);
  if (before_ >= 0 && before_ != device_) (void)cudaSetDevice(before_);
}

}  // namespace kvpool
