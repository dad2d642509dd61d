#include "xfer/cuda/plugin/bench/sharing.h"

#include "xfer/cuda/plugin/bench/load_kernels.h"

namespace kvpool {
namespace {

constexpr int launches = 100;

Status make_timed_event(Event& event) {
  cudaEvent_t made = nullptr;
  const cudaError_t error = cudaEventCreate(&made);
  if (error != cudaSuccess) return fail_cuda(error, "a CUDA event");
  event.reset(made);
  return {};
}

}  // namespace

std::string to_string(OtherWork work) { return work == OtherWork::memory ? "memory" : "arithmetic"; }

Status make_engine_stream(Stream& stream) {
  cudaStream_t made = nullptr;
  const cudaError_t error = cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking);
  if (error != cudaSuccess) return fail_cuda(error, "a CUDA stream");
  stream.reset(made);
  return {};
}

Status Sharing::open(int device) {
  cudaError_t error = cudaDeviceGetAttribute(&multiprocessors_, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return fail_cuda(error, "the number of multiprocessors");
  Status made = make_engine_stream(stream_);
  if (made) made = make_device_memory(memory_, 2 * half_bytes);
  if (made) made = make_timed_event(begin_);
  if (made) made = make_timed_event(end_);
  if (!made) return made;
  error = cudaMemset(memory_.get(), 0x11, 2 * half_bytes);
  return error == cudaSuccess ? Status{} : fail_cuda(error, "cudaMemset");
}

cudaError_t Sharing::launch(OtherWork work) {
  const auto blocks = static_cast<uint32_t>(multiprocessors_) * 8;
  cudaError_t error = cudaEventRecord(begin_.get(), stream_.get());
  for (int i = 0; i < launches && error == cudaSuccess; ++i) {
    error = work == OtherWork::memory ? launch_memory_work(memory_.get(), memory_.get() + half_bytes,
                                                           half_bytes, blocks, stream_.get())
                                      : launch_arithmetic_work(memory_.get(), blocks, stream_.get());
  }
  return error == cudaSuccess ? cudaEventRecord(end_.get(), stream_.get()) : error;
}

Result<double> Sharing::wait_ms() {
  float ms = 0;
  cudaError_t error = cudaEventSynchronize(end_.get());
  if (error == cudaSuccess) error = cudaEventElapsedTime(&ms, begin_.get(), end_.get());
  if (error != cudaSuccess) return fail_cuda(error, "other work");
  return static_cast<double>(ms);
}

Result<double> Sharing::alone_ms(OtherWork work) {
  if (const cudaError_t error = launch(work); error != cudaSuccess) return fail_cuda(error, "other work");
  return wait_ms();
}

Result<Sharing::Beside> Sharing::beside(OtherWork work, GpuTransfer& transfer, const Workload& workload,
                                        Directions directions) {
  if (const cudaError_t error = launch(work); error != cudaSuccess) return fail_cuda(error, "other work");
  const auto times = run_workload(transfer, workload, {.directions = directions, .checks = false});
  if (!times) return tl::unexpected(times.error());
  const Result<double> other = wait_ms();
  if (!other) return tl::unexpected(other.error());
  return Beside{*other, *times};
}

}  // namespace kvpool
