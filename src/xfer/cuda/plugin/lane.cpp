#include "xfer/cuda/plugin/lane.h"

#include "xfer/cuda/plugin/kernels.h"

namespace kvpool {
namespace {

// On a thread of CUDA's, which must not call CUDA.
void CUDART_CB wake(void* wakeup) { static_cast<Wakeup*>(wakeup)->notify(); }

}  // namespace

Result<std::unique_ptr<Lane>> Lane::open(const GpuOptions& options, GpuDirection direction, Wakeup& wakeup) {
  std::unique_ptr<Lane> lane(new Lane(options, direction, wakeup));
  if (Status made = lane->make(); !made) return tl::unexpected(made.error());
  return lane;
}

Status Lane::make() {
  Status made = make_stream(work_);
  if (made) made = make_stream(notices_);
  for (Slot& slot : slots_) {
    if (made) made = make_pinned(slot.pieces, options_.pieces_max);
    if (made && direction_ == GpuDirection::load) made = make_pinned(slot.checks, options_.pieces_max);
    if (made) made = make_event(slot.done);
  }
  if (made) made = make_pinned(wrong_, slots_.size());
  if (made) made = staging_.open(options_.staging_bytes, options_.pieces_max, options_.give_way_bytes);
  return made;
}

std::span<CopyPiece> Lane::room() const {
  return {slots_[submitted_ % slots_.size()].pieces.get(), options_.pieces_max};
}

std::span<CheckedPieces> Lane::check_room() const {
  CheckedPieces* const room = slots_[submitted_ % slots_.size()].checks.get();
  return {room, room == nullptr ? 0 : options_.pieces_max};
}

Status Lane::cut(PieceTotals& totals) const {
  const std::optional<uint32_t> count = cut_pieces(room(), totals.pieces, GpuOptions::piece_bytes_max);
  if (!count) {
    return fail(Errc::too_large, "a batch has at most " + std::to_string(options_.pieces_max) +
                                     " pieces, those above 64 KiB counted as several");
  }
  totals.pieces = *count;
  return {};
}

cudaStream_t Lane::last() const {
  return direction_ == GpuDirection::store ? staging_.copies() : work_.get();
}

cudaError_t Lane::begin_after(cudaEvent_t external) {
  const cudaError_t error = cudaStreamWaitEvent(work_.get(), external, 0);
  return error == cudaSuccess ? cudaStreamWaitEvent(staging_.copies(), external, 0) : error;
}

cudaError_t Lane::issue(const PieceTotals& totals, uint32_t checks) {
  uint32_t* const wrong = this->wrong(submitted_);
  Slot& now = slot(submitted_++);
  const std::span<CopyPiece> pieces(now.pieces.get(), totals.pieces);
  *wrong = 0;
  cudaError_t error = staging_.move(pieces, direction_ == GpuDirection::load, work_.get());
  if (error == cudaSuccess && checks > 0) {
    error = launch_check({.pieces = now.pieces.get(),
                          .checked = now.checks.get(),
                          .count = checks,
                          .wrong = wrong,
                          .stream = work_.get()});
  }
  if (error == cudaSuccess) error = cudaEventRecord(now.done.get(), last());
  now.whole = error == cudaSuccess;
  return now.whole ? announce(now) : error;
}

// On a stream of its own, so that the next batch does not wait for the thread that tells.
cudaError_t Lane::announce(Slot& slot) {
  const cudaError_t error = cudaStreamWaitEvent(notices_.get(), slot.done.get(), 0);
  return error == cudaSuccess ? cudaLaunchHostFunc(notices_.get(), wake, &wakeup_) : error;
}

std::optional<GpuCompletion> Lane::take(cudaError_t& broken) {
  if (idle()) return {};
  const Slot& oldest = slot(completed_);
  // What was put on streams in part has no event behind it, but it is the last that was put there.
  const cudaError_t ended = oldest.whole ? cudaEventQuery(oldest.done.get()) : look();
  if (ended == cudaErrorNotReady) {
    (void)cudaGetLastError();
    return {};
  }
  if (ended != cudaSuccess) broken = ended;
  const bool carried = ended == cudaSuccess && oldest.whole;
  const bool is_wrong = __atomic_load_n(wrong(completed_), __ATOMIC_ACQUIRE) != 0;
  return GpuCompletion{.ticket = {direction_, completed_++},
                       .code = !carried   ? Errc::io_error
                               : is_wrong ? Errc::corrupt
                                          : Errc::ok};
}

cudaError_t Lane::look() const {
  cudaError_t all = cudaSuccess;
  const auto& [one, other] = staging_.all_copies();
  for (const cudaStream_t stream : {work_.get(), one.get(), other.get(), notices_.get()}) {
    if (stream == nullptr) continue;  // CUDA would take it for the default stream
    const cudaError_t error = cudaStreamQuery(stream);
    if (error == cudaSuccess) continue;
    (void)cudaGetLastError();
    if (error != cudaErrorNotReady) return error;
    all = error;
  }
  return all;
}

}  // namespace kvpool
