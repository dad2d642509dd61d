// What CUDA hands out, each with one owner that gives it back, and errors of CUDA as Errors.
//
// Thread: any, with the device current (DeviceGuard). Failure: make_ functions return CUDA's code and words.

#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "base/result.h"

namespace kvpool {

// "what: CUDA's words". The thread's last error is empty afterwards.
[[nodiscard]] std::string cuda_words(cudaError_t error, const std::string& what);
[[nodiscard]] tl::unexpected<Error> fail_cuda(cudaError_t error, const std::string& what);

struct StreamDelete {
  void operator()(cudaStream_t stream) const { (void)cudaStreamDestroy(stream); }
};
struct EventDelete {
  void operator()(cudaEvent_t event) const { (void)cudaEventDestroy(event); }
};
struct PinnedDelete {
  void operator()(void* memory) const { (void)cudaFreeHost(memory); }
};
struct DeviceDelete {
  void operator()(std::byte* memory) const { (void)cudaFree(memory); }
};
using Stream = std::unique_ptr<CUstream_st, StreamDelete>;
using Event = std::unique_ptr<CUevent_st, EventDelete>;
template <class T>
using Pinned = std::unique_ptr<T, PinnedDelete>;
using DeviceMemory = std::unique_ptr<std::byte, DeviceDelete>;

// Does not wait for the default stream, and goes before other streams where thread blocks are scheduled.
[[nodiscard]] Status make_stream(Stream& stream);
// Without times, which would cost.
[[nodiscard]] Status make_event(Event& event);
[[nodiscard]] Status make_device_memory(DeviceMemory& memory, uint64_t bytes);
template <class T>
[[nodiscard]] Status make_pinned(Pinned<T>& memory, uint64_t count) {
  void* taken = nullptr;
  if (const cudaError_t error = cudaHostAlloc(&taken, count * sizeof(T), cudaHostAllocPortable);
      error != cudaSuccess) {
    return fail_cuda(error, "cudaHostAlloc of " + std::to_string(count * sizeof(T)) + " bytes");
  }
  memory.reset(static_cast<T*>(taken));
  return {};
}

// A device is current while this lives, and calls are allowed while other threads capture graphs.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device);
  ~DeviceGuard();
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int device_;
  int before_ = -1;
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

}  // namespace kvpool
