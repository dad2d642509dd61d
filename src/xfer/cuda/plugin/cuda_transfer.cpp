#include "xfer/cuda/plugin/cuda_transfer.h"

#include <bit>
#include <chrono>
#include <exception>
#include <thread>

#include "base/log.h"
#include "xfer/cuda/plugin/kernels.h"

namespace kvpool {
namespace {

cudaEvent_t event_of(ExternalEvent event) { return std::bit_cast<cudaEvent_t>(event.handle); }

Status check_options(const GpuOptions& options) {
  if (options.batches_max == 0 || options.batches_max > 1024) {
    return fail(Errc::invalid_argument, "batches_max must be 1 to 1024");
  }
  if (options.pieces_max == 0 || options.pieces_max > GpuOptions::pieces_most) {
    return fail(Errc::invalid_argument, "pieces_max must be 1 to " + std::to_string(GpuOptions::pieces_most));
  }
  if (options.staging_bytes < Staging::chunks << 20) {
    return fail(Errc::invalid_argument, "staging_bytes must be at least 4 MiB");
  }
  return {};
}

Status check_device_memory(const PagedLayer& layer, size_t number, int device) {
  for (std::byte* const place : {layer.base, layer.base + layer.extent_bytes() - 1}) {
    cudaPointerAttributes attributes{};
    const cudaError_t error = cudaPointerGetAttributes(&attributes, place);
    if (error != cudaSuccess) (void)cudaGetLastError();
    if (error != cudaSuccess || attributes.type != cudaMemoryTypeDevice || attributes.device != device) {
      return fail(Errc::invalid_argument, "layer " + std::to_string(number) +
                                              " of the paged cache is not in the memory of GPU " +
                                              std::to_string(device));
    }
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<GpuTransfer>> CudaTransfer::open(const GpuOptions& options) {
  if (Status good = check_options(options); !good) return tl::unexpected(good.error());
  try {
    std::unique_ptr<CudaTransfer> transfer(new CudaTransfer(options));
    if (Status made = transfer->make(); !made) return tl::unexpected(made.error());
    return transfer;
  } catch (const std::exception& thrown) {  // no descriptor or no memory is left
    return fail(Errc::system, thrown.what());
  }
}

Status CudaTransfer::make() {
  int devices = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&devices); error != cudaSuccess) {
    return fail_cuda(error, "no GPU");
  }
  if (options_.device < 0 || options_.device >= devices) {
    return fail(Errc::unsupported, "GPU " + std::to_string(options_.device) + " is not among the " +
                                       std::to_string(devices) + " of this machine");
  }
  const DeviceGuard guard(options_.device);
  if (Status good = look_at_device(); !good) return good;
  for (const GpuDirection direction : {GpuDirection::load, GpuDirection::store}) {
    auto lane = Lane::open(options_, direction, *wakeup_);
    if (!lane) return tl::unexpected(lane.error());
    lanes_[static_cast<size_t>(direction)] = std::move(*lane);
  }
  return {};
}

Status CudaTransfer::look_at_device() const {
  int same_address = 0;
  cudaError_t error = cudaSetDevice(options_.device);  // makes the context where there is none
  if (error == cudaSuccess) {
    error =
        cudaDeviceGetAttribute(&same_address, cudaDevAttrCanUseHostPointerForRegisteredMem, options_.device);
  }
  if (error == cudaSuccess) error = prepare_kernels();
  const std::string name = "GPU " + std::to_string(options_.device);
  if (error != cudaSuccess) return fail_cuda(error, name);
  if (same_address == 0) {
    return fail(Errc::unsupported, name + " reaches registered memory at other addresses than the CPU");
  }
  return {};
}

CudaTransfer::~CudaTransfer() {
  const DeviceGuard guard(options_.device);
  const cudaError_t ended = drain();
  if (ended == cudaErrorNotReady) {
    leave_behind();
    return;
  }
  // Of a broken context CUDA does not say whether its thread is still in the function that wakes.
  if (ended != cudaSuccess) (void)wakeup_.release();
  for (std::unique_ptr<Lane>& lane : lanes_) lane.reset();
  pinned_.clear();
  (void)cudaGetLastError();
}

cudaError_t CudaTransfer::drain() const {
  const auto limit = std::chrono::steady_clock::now() + std::chrono::milliseconds(options_.close_wait_ms_max);
  for (;;) {
    cudaError_t all = cudaSuccess;
    for (const std::unique_ptr<Lane>& lane : lanes_) {
      const cudaError_t ended = lane == nullptr ? cudaSuccess : lane->look();
      if (ended != cudaSuccess && ended != cudaErrorNotReady) return ended;
      if (ended != cudaSuccess) all = ended;
    }
    if (all == cudaSuccess || std::chrono::steady_clock::now() >= limit) return all;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

// All that CUDA may still use when the batches begin. To give back any memory of CUDA's would wait for them.
void CudaTransfer::leave_behind() {
  for (std::unique_ptr<Lane>& lane : lanes_) (void)lane.release();
  (void)wakeup_.release();
  (void)new std::vector<PinnedMemory>(std::move(pinned_));
  log_message(LogLevel::error, "GPU " + std::to_string(options_.device) +
                                   ": batches were still under way after " +
                                   std::to_string(options_.close_wait_ms_max) +
                                   " ms. What belongs to them is left behind, and their memory must not be "
                                   "used for anything else");
}

Status CudaTransfer::register_host(std::span<std::byte> memory) {
  if (memory.empty()) return fail(Errc::invalid_argument, "no memory to register");
  const DeviceGuard guard(options_.device);
  Result<PinnedMemory> pinned = PinnedMemory::pin(memory, options_.device);
  if (!pinned) return tl::unexpected(pinned.error());
  pinned_.push_back(std::move(*pinned));
  regions_.add(memory);
  return {};
}

Status CudaTransfer::set_layers(std::vector<PagedLayer> layers) {
  for (const std::unique_ptr<Lane>& lane : lanes_) {
    if (!lane->idle()) return fail(Errc::busy, "batches of the paged cache before are under way");
  }
  if (Status good = check_layers(layers); !good) return good;
  const DeviceGuard guard(options_.device);
  for (size_t i = 0; i < layers.size(); ++i) {
    if (Status good = check_device_memory(layers[i], i, options_.device); !good) return good;
  }
  layers_ = std::move(layers);
  return {};
}

Status CudaTransfer::check_segments(const PagedBatch& batch) const {
  for (size_t i = 0; i < batch.segments.size(); ++i) {
    const PagedSegment& segment = batch.segments[i];
    if (segment.check && batch.direction != GpuDirection::load) {
      return fail(Errc::invalid_argument, "segment " + std::to_string(i) + " of a store has a check");
    }
    // list_pieces() has found the layer.
    uint64_t bytes = 0;
    const bool overflows =
        __builtin_mul_overflow(layers_[segment.layer].page_bytes(), uint64_t{segment.pages_count}, &bytes);
    if (bytes == 0 && !overflows) continue;
    if (overflows || !regions_.contains(segment.host, bytes)) {
      return fail(Errc::invalid_argument,
                  "segment " + std::to_string(i) + " of the batch is not in registered memory");
    }
  }
  return {};
}

// An event in a graph that is being captured would draw the transfer into that graph; CUDA does not tell of
// such a one, but refuses to be asked.
Status CudaTransfer::order_after(Lane& lane, ExternalEvent event) {
  cudaError_t error = cudaEventQuery(event_of(event));
  if (error == cudaSuccess) return {};
  (void)cudaGetLastError();
  if (error == cudaErrorNotReady) error = lane.begin_after(event_of(event));
  return error == cudaSuccess ? Status{} : refuse(lane, error, "waiting for an event");
}

Status CudaTransfer::refuse(const Lane& lane, cudaError_t error, const char* what) {
  const std::string words = cuda_words(error, what);
  const cudaError_t stays = lane.look();
  if (stays == cudaSuccess || stays == cudaErrorNotReady) return fail(Errc::invalid_argument, words);
  break_down(stays, what);
  return fail(Errc::io_error, failure_);
}

Result<GpuTicket> CudaTransfer::submit(const PagedBatch& batch) {
  if (!failure_.empty()) return fail(Errc::io_error, failure_);
  Lane& to = lane(batch.direction);
  if (to.full()) return fail(Errc::busy, "queue is full");
  Result<PieceTotals> totals = list_pieces(layers_, batch.segments, batch.pages, to.room());
  if (!totals) return tl::unexpected(totals.error());
  if (Status good = check_segments(batch); !good) return tl::unexpected(good.error());
  if (Status good = to.cut(*totals); !good) return tl::unexpected(good.error());
  const DeviceGuard guard(options_.device);
  if (batch.after) {
    if (Status good = order_after(to, *batch.after); !good) return tl::unexpected(good.error());
  }
  const std::span<const CopyPiece> pieces = to.room().first(totals->pieces);
  const uint32_t checks = list_checks(layers_, batch.segments, batch.pages, pieces, to.check_room());
  const GpuTicket ticket{batch.direction, to.submitted()};
  if (const cudaError_t error = to.issue(*totals, checks); error != cudaSuccess) break_down(error, "a batch");
  return ticket;
}

Status CudaTransfer::record(GpuDirection direction, ExternalEvent event) {
  if (!failure_.empty()) return fail(Errc::io_error, failure_);
  const DeviceGuard guard(options_.device);
  const Lane& behind = lane(direction);
  const cudaError_t error = behind.record(event_of(event));
  return error == cudaSuccess ? Status{} : refuse(behind, error, "recording an event");
}

void CudaTransfer::break_down(cudaError_t error, const char* what) {
  std::string words = cuda_words(error, what);
  if (failure_.empty()) failure_ = std::move(words);
}

size_t CudaTransfer::poll(std::span<GpuCompletion> out) {
  const DeviceGuard guard(options_.device);
  size_t taken = 0;
  // Starting with the other one each time, so that a short `out` starves none.
  for (size_t i = 0; i < lanes_.size(); ++i) {
    Lane& lane = *lanes_[(next_polled_ + i) % lanes_.size()];
    while (taken < out.size()) {
      cudaError_t broken = cudaSuccess;
      const std::optional<GpuCompletion> completion = lane.take(broken);
      if (broken != cudaSuccess) break_down(broken, "a batch");
      if (!completion) break;
      out[taken++] = *completion;
    }
  }
  next_polled_ = (next_polled_ + 1) % lanes_.size();
  return taken;
}

}  // namespace kvpool
