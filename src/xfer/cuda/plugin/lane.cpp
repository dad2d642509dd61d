#include "xfer/cuda/plugin/lane.h"

#include "base/assert.h"
#include "xfer/cuda/plugin/kernels.h"

namespace kvpool {
namespace {

// On a thread of CUDA's, which must not call CUDA.
void CUDART_CB wake(void* wakeup) { static_cast<Wakeup*>(wakeup)->notify(); }

}  // namespace

Result<std::unique_ptr<Lane>> Lane::open(const GpuOptions& options, GpuDirection direction, bool bulk,
                                         Wakeup* wakeup) {
  std::unique_ptr<Lane> lane(new Lane(options, direction, bulk, wakeup));
  if (Status made = lane->make(); !made) return tl::unexpected(made.error());
  return lane;
}

Status Lane::make() {
  Status made = make_stream(work_);
  if (made && wakeup_ != nullptr) made = make_stream(notices_);
  for (Slot& slot : slots_) {
    if (made) made = make_pinned(slot.pieces, options_.pieces_max);
    if (made) made = make_event(slot.after);
    if (made) made = make_event(slot.done);
    if (made) made = make_event(slot.joined);
  }
  if (made && options_.method == GpuMethod::staged) {
    made = staging_.open(options_.staging_bytes, options_.pieces_max, options_.blocks);
  }
  if (options_.method == GpuMethod::batched || options_.method == GpuMethod::automatic) {
    destinations_.resize(options_.pieces_max);
    sources_.resize(options_.pieces_max);
    lengths_.resize(options_.pieces_max);
  }
  return made;
}

Lane::~Lane() {
  if (work_ != nullptr) (void)cudaStreamSynchronize(work_.get());
  if (staging_.copies() != nullptr) (void)cudaStreamSynchronize(staging_.copies());
  if (notices_ != nullptr) (void)cudaStreamSynchronize(notices_.get());
}

std::span<CopyPiece> Lane::room() const {
  return {slots_[submitted_ % slots_.size()].pieces.get(), options_.pieces_max};
}

GpuMethod Lane::method_for(const PieceTotals& totals) const {
  GpuMethod method = options_.method;
  if (method == GpuMethod::automatic) {
    const bool large = totals.pieces > 0 && totals.bytes / totals.pieces >= engine_piece_bytes_min;
    method = large ? GpuMethod::batched : GpuMethod::kernel;
  }
  if (method == GpuMethod::bulk && (!bulk_ || !totals.aligned)) method = GpuMethod::kernel;
  return method;
}

Status Lane::cut(PieceTotals& totals) {
  method_ = method_for(totals);
  if (method_ == GpuMethod::batched || method_ == GpuMethod::single) return {};
  const std::optional<uint32_t> count = cut_pieces(room(), totals.pieces, kernel_piece_bytes_max);
  if (!count) {
    return fail(Errc::too_large, "a batch has at most " + std::to_string(options_.pieces_max) +
                                     " pieces, those above 64 KiB counted as several");
  }
  totals.pieces = *count;
  return {};
}

cudaStream_t Lane::last() const {
  const bool copies_end = options_.method == GpuMethod::staged && direction_ == GpuDirection::store;
  return copies_end ? staging_.copies() : work_.get();
}

cudaError_t Lane::begin_after(cudaStream_t external) {
  const cudaEvent_t event = slot(submitted_).after.get();
  cudaError_t error = cudaEventRecord(event, external);
  if (error == cudaSuccess) error = cudaStreamWaitEvent(work_.get(), event, 0);
  if (error == cudaSuccess && options_.method == GpuMethod::staged) {
    error = cudaStreamWaitEvent(staging_.copies(), event, 0);
  }
  return error;
}

cudaError_t Lane::issue(const PieceTotals& totals) {
  Slot& now = slot(submitted_++);
  cudaError_t error = totals.pieces == 0 ? cudaSuccess : move(now, totals);
  now.failed = error != cudaSuccess;
  const cudaError_t joined = now.failed ? join(now) : cudaSuccess;
  const cudaError_t recorded = cudaEventRecord(now.done.get(), last());
  now.recorded = joined == cudaSuccess && recorded == cudaSuccess;
  if (error == cudaSuccess) error = recorded;
  if (error == cudaSuccess && wakeup_ != nullptr) error = announce(now);
  return error;
}

// After a failure the two streams of `staged` may both have work of this batch.
cudaError_t Lane::join(Slot& slot) {
  if (options_.method != GpuMethod::staged) return cudaSuccess;
  const cudaStream_t other = last() == work_.get() ? staging_.copies() : work_.get();
  const cudaError_t error = cudaEventRecord(slot.joined.get(), other);
  return error == cudaSuccess ? cudaStreamWaitEvent(last(), slot.joined.get(), 0) : error;
}

// On a stream of its own, so that the next batch does not wait for the thread that tells.
cudaError_t Lane::announce(Slot& slot) {
  const cudaError_t error = cudaStreamWaitEvent(notices_.get(), slot.done.get(), 0);
  return error == cudaSuccess ? cudaLaunchHostFunc(notices_.get(), wake, wakeup_) : error;
}

cudaError_t Lane::move(Slot& slot, const PieceTotals& totals) {
  const std::span<CopyPiece> pieces(slot.pieces.get(), totals.pieces);
  const bool to_device = direction_ == GpuDirection::load;
  const PieceLaunch launch{.pieces = pieces.data(),
                           .count = totals.pieces,
                           .to_device = to_device,
                           .blocks = options_.blocks,
                           .stream = work_.get()};
  switch (method_) {
    case GpuMethod::bulk:
      return launch_bulk(launch);
    case GpuMethod::staged:
      return staging_.move(pieces, to_device, work_.get());
    case GpuMethod::batched:
      return copy_batched(pieces);
    case GpuMethod::single:
      return copy_singly(pieces);
    default:
      return launch_copy(launch);
  }
}

cudaError_t Lane::copy_singly(std::span<const CopyPiece> pieces) {
  for (const CopyPiece& piece : pieces) {
    void* const host = reinterpret_cast<void*>(piece.host);
    void* const device = reinterpret_cast<void*>(piece.device);
    const cudaError_t error =
        direction_ == GpuDirection::load
            ? cudaMemcpyAsync(device, host, piece.bytes, cudaMemcpyHostToDevice, work_.get())
            : cudaMemcpyAsync(host, device, piece.bytes, cudaMemcpyDeviceToHost, work_.get());
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

cudaError_t Lane::copy_batched(std::span<const CopyPiece> pieces) {
  const bool to_device = direction_ == GpuDirection::load;
  for (size_t i = 0; i < pieces.size(); ++i) {
    void* const host = reinterpret_cast<void*>(pieces[i].host);
    void* const device = reinterpret_cast<void*>(pieces[i].device);
    destinations_[i] = to_device ? device : host;
    sources_[i] = to_device ? host : device;
    lengths_[i] = pieces[i].bytes;
  }
  cudaMemcpyAttributes attributes{};
  attributes.srcAccessOrder = cudaMemcpySrcAccessOrderStream;
  attributes.flags = cudaMemcpyFlagPreferOverlapWithCompute;
  size_t first = 0;
#if CUDART_VERSION >= 13000
  return cudaMemcpyBatchAsync(destinations_.data(), sources_.data(), lengths_.data(), pieces.size(),
                              &attributes, &first, 1, work_.get());
#else
  size_t failed = 0;
  return cudaMemcpyBatchAsync(destinations_.data(), const_cast<void**>(sources_.data()), lengths_.data(),
                              pieces.size(), &attributes, &first, 1, &failed, work_.get());
#endif
}

std::optional<GpuCompletion> Lane::take(cudaError_t& broken) {
  if (idle()) return {};
  const Slot& oldest = slot(completed_);
  cudaError_t ended = oldest.recorded ? cudaEventQuery(oldest.done.get()) : cudaSuccess;
  if (ended == cudaErrorNotReady) {
    (void)cudaGetLastError();
    return {};
  }
  if (ended != cudaSuccess) broken = ended;
  const bool good = ended == cudaSuccess && oldest.recorded && !oldest.failed;
  return GpuCompletion{.ticket = {direction_, completed_++}, .code = good ? Errc::ok : Errc::io_error};
}

cudaError_t Lane::hold_back(cudaStream_t external, uint64_t number) {
  KVPOOL_ASSERT(number < submitted_);
  if (number < completed_ || !slot(number).recorded) return cudaSuccess;
  return cudaStreamWaitEvent(external, slot(number).done.get(), 0);
}

cudaError_t Lane::look() const {
  const cudaError_t error = cudaStreamQuery(work_.get());
  if (error == cudaSuccess) return error;
  (void)cudaGetLastError();
  return error == cudaErrorNotReady ? cudaSuccess : error;
}

}  // namespace kvpool
