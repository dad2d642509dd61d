#include "xfer/cuda/plugin/bench/other_copies.h"

#include <algorithm>
#include <chrono>
#include <stop_token>
#include <thread>

#include "xfer/cuda/plugin/bench/sharing.h"

namespace kvpool {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t alone_count = 200;

OtherCopies::Waits summed_up(std::vector<double>& waits_us) {
  if (waits_us.empty()) return {};
  std::ranges::sort(waits_us);
  return {waits_us.size(), waits_us[waits_us.size() / 2], waits_us.back()};
}

}  // namespace

Status OtherCopies::open(int device) {
  device_ = device;
  Status made = make_engine_stream(stream_);
  if (made) made = make_event(done_);
  if (made) made = make_device_memory(memory_, bytes_max);
  return made ? make_pinned(host_, bytes_max) : made;
}

cudaError_t OtherCopies::once(GpuDirection direction, uint64_t bytes, std::vector<double>& waits_us) {
  const auto begun = Clock::now();
  cudaError_t error =
      direction == GpuDirection::load
          ? cudaMemcpyAsync(memory_.get(), host_.get(), bytes, cudaMemcpyHostToDevice, stream_.get())
          : cudaMemcpyAsync(host_.get(), memory_.get(), bytes, cudaMemcpyDeviceToHost, stream_.get());
  if (error == cudaSuccess) error = cudaEventRecord(done_.get(), stream_.get());
  if (error == cudaSuccess) error = cudaEventSynchronize(done_.get());
  waits_us.push_back(std::chrono::duration<double, std::micro>(Clock::now() - begun).count());
  return error;
}

Result<OtherCopies::Waits> OtherCopies::alone(GpuDirection direction, uint64_t bytes) {
  std::vector<double> waits_us;
  for (size_t i = 0; i < alone_count; ++i) {
    if (const cudaError_t error = once(direction, bytes, waits_us); error != cudaSuccess) {
      return fail_cuda(error, "others' copies");
    }
  }
  return summed_up(waits_us);
}

Result<OtherCopies::Beside> OtherCopies::beside(GpuDirection direction, uint64_t bytes, GpuTransfer& transfer,
                                                const Workload& workload) {
  std::vector<double> waits_us;
  cudaError_t error = cudaSuccess;
  std::jthread others([&](const std::stop_token& stop) {
    error = cudaSetDevice(device_);
    while (error == cudaSuccess && !stop.stop_requested()) {
      error = once(direction, bytes, waits_us);
    }
  });
  const bool load = direction == GpuDirection::load;
  const auto times =
      run_workload(transfer, workload, {.directions = {.load = load, .store = !load}, .checks = false});
  others.request_stop();
  others.join();
  if (!times) return tl::unexpected(times.error());
  if (error != cudaSuccess) return fail_cuda(error, "others' copies");
  return Beside{summed_up(waits_us), *times};
}

}  // namespace kvpool
