#include "xfer/cuda/plugin/bench/single_copies.h"

#include <bit>

namespace kvpool {
namespace {

void CUDART_CB wake(void* wakeup) { static_cast<Wakeup*>(wakeup)->notify(); }

}  // namespace

Result<std::unique_ptr<GpuTransfer>> SingleCopies::open() {
  std::unique_ptr<SingleCopies> copies(new SingleCopies);
  if (Status made = copies->make(); !made) return tl::unexpected(made.error());
  return copies;
}

Status SingleCopies::make() {
  Status made;
  for (Side& side : sides_) {
    if (made) made = make_stream(side.copies);
    if (made) made = make_stream(side.notices);
    for (Event& done : side.done) {
      if (made) made = make_event(done);
    }
  }
  return made;
}

SingleCopies::~SingleCopies() {
  for (const Side& side : sides_) (void)cudaStreamSynchronize(side.notices.get());
}

Status SingleCopies::set_layers(std::vector<PagedLayer> layers) {
  layers_ = std::move(layers);
  return {};
}

Result<GpuTicket> SingleCopies::submit(const PagedBatch& batch) {
  Side& to = side(batch.direction);
  if (to.submitted - to.completed == batches_max) return fail(Errc::busy, "queue is full");
  const Result<PieceTotals> totals = list_pieces(layers_, batch.segments, batch.pages, pieces_);
  if (!totals) return tl::unexpected(totals.error());
  const auto pieces = std::span<const CopyPiece>(pieces_).first(totals->pieces);
  const cudaError_t error = issue(to, pieces, batch.direction == GpuDirection::load);
  if (error != cudaSuccess) {
    failure_ = cuda_words(error, "a batch");
    return fail(Errc::io_error, failure_);
  }
  return GpuTicket{batch.direction, to.submitted++};
}

cudaError_t SingleCopies::issue(Side& side, std::span<const CopyPiece> pieces, bool to_device) {
  cudaError_t error = cudaSuccess;
  for (const CopyPiece& piece : pieces) {
    void* const host = std::bit_cast<void*>(piece.host);
    void* const device = std::bit_cast<void*>(piece.device);
    error = to_device ? cudaMemcpyAsync(device, host, piece.bytes, cudaMemcpyHostToDevice, side.copies.get())
                      : cudaMemcpyAsync(host, device, piece.bytes, cudaMemcpyDeviceToHost, side.copies.get());
    if (error != cudaSuccess) return error;
  }
  const cudaEvent_t done = side.done[side.submitted % batches_max].get();
  error = cudaEventRecord(done, side.copies.get());
  if (error == cudaSuccess) error = cudaStreamWaitEvent(side.notices.get(), done, 0);
  return error == cudaSuccess ? cudaLaunchHostFunc(side.notices.get(), wake, &wakeup_) : error;
}

size_t SingleCopies::poll(std::span<GpuCompletion> out) {
  size_t taken = 0;
  for (const GpuDirection direction : {GpuDirection::load, GpuDirection::store}) {
    Side& from = side(direction);
    while (taken < out.size() && from.completed < from.submitted) {
      const cudaError_t error = cudaEventQuery(from.done[from.completed % batches_max].get());
      if (error == cudaErrorNotReady) break;
      if (error != cudaSuccess) failure_ = cuda_words(error, "a batch");
      out[taken++] = {.ticket = {direction, from.completed++},
                      .code = error == cudaSuccess ? Errc::ok : Errc::io_error};
    }
  }
  (void)cudaGetLastError();
  return taken;
}

}  // namespace kvpool
