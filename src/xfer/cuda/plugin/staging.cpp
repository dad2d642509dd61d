#include "xfer/cuda/plugin/staging.h"

#include <bit>

#include "base/assert.h"
#include "xfer/cuda/plugin/kernels.h"

namespace kvpool {
namespace {

#if CUDART_VERSION >= 12080
struct CopyList {
  void** to = nullptr;
  void** from = nullptr;
  size_t* lengths = nullptr;
  size_t count = 0;
};

// The copies of a list go in any order.
cudaError_t copy_batch(const CopyList& list, cudaStream_t stream) {
  cudaMemcpyAttributes attributes{};
  attributes.srcAccessOrder = cudaMemcpySrcAccessOrderStream;
  attributes.flags = cudaMemcpyFlagPreferOverlapWithCompute;
  size_t first = 0;
#if CUDART_VERSION >= 13000
  return cudaMemcpyBatchAsync(list.to, list.from, list.lengths, list.count, &attributes, &first, 1, stream);
#else
  size_t failed = 0;
  return cudaMemcpyBatchAsync(list.to, list.from, list.lengths, list.count, &attributes, &first, 1, &failed,
                              stream);
#endif
}
#endif

}  // namespace

Status Staging::open(uint64_t bytes, uint32_t pieces_max, uint64_t give_way_bytes) {
  constexpr uint64_t alignment_bytes = 256;
  chunk_bytes_ = bytes / chunks / alignment_bytes * alignment_bytes;
  KVPOOL_ASSERT(chunk_bytes_ >= uint64_t{1} << 20);
  runs_.reserve(pieces_max);
  to_.resize(pieces_max);
  from_.resize(pieces_max);
  lengths_.resize(pieces_max);
  give_way_bytes_ = give_way_bytes;
  Status made = make_device_memory(memory_, chunk_bytes_ * chunks);
  for (Stream& stream : copies_) {
    if (made) made = make_stream(stream);
  }
  if (made) made = make_event(copied_);
  for (Chunk& chunk : chunks_) {
    if (made) made = make_event(chunk.filled);
    if (made) made = make_event(chunk.emptied);
  }
  return made;
}

uint32_t Staging::lay_out(std::span<CopyPiece> pieces, uint64_t chunk_begin) {
  runs_.clear();
  uint64_t used_bytes = 0;
  uint32_t placed = 0;
  while (placed < pieces.size()) {
    // As far from a multiple of 16 as in host memory, so that kernels can use wide words.
    const uint64_t offset = (used_bytes + 15) / 16 * 16 + pieces[placed].host % 16;
    if (offset + pieces[placed].bytes > chunk_bytes_) break;
    const HostRun run = host_run(pieces.subspan(placed), chunk_bytes_ - offset);
    runs_.push_back({run.host, chunk_begin + offset, run.bytes});
    used_bytes = offset + run.bytes;
    for (uint32_t i = 0; i < run.pieces; ++i, ++placed) {
      pieces[placed].host = chunk_begin + offset + (pieces[placed].host - run.host);
    }
  }
  return placed;
}

// A copy engine stays with one stream as long as that has copies which need not wait, and those of all others
// wait (for the whole of a load, where it is never without). So the copies go on in the other stream now and
// then, which waits for this one's. Last in a chunk: the other stream is for the next.
cudaError_t Staging::give_way() {
  for (const Run& run : runs_) copied_bytes_ += run.bytes;
  if (give_way_bytes_ == 0 || copied_bytes_ < give_way_bytes_) return cudaSuccess;
  copied_bytes_ = 0;
  cudaError_t error = cudaEventRecord(copied_.get(), copies());
  const size_t other = 1 - turn_;
  if (error == cudaSuccess) error = cudaStreamWaitEvent(copies_[other].get(), copied_.get(), 0);
  if (error == cudaSuccess) turn_ = other;
  return error;
}

// Between two commands the copy engine pauses for about the time of 150 KiB, within a batch of them it does
// not.
cudaError_t Staging::copy_runs(bool to_device) {
#if CUDART_VERSION >= 12080
  if (runs_.size() > 1 && has_batches_) {
    for (size_t i = 0; i < runs_.size(); ++i) {
      void* const host = std::bit_cast<void*>(runs_[i].host);
      void* const staged = std::bit_cast<void*>(runs_[i].staged);
      to_[i] = to_device ? staged : host;
      from_[i] = to_device ? host : staged;
      lengths_[i] = runs_[i].bytes;
    }
    const cudaError_t error = copy_batch({to_.data(), from_.data(), lengths_.data(), runs_.size()}, copies());
    // Of an older driver.
    if (error != cudaErrorCallRequiresNewerDriver && error != cudaErrorNotSupported) return error;
    (void)cudaGetLastError();
    has_batches_ = false;
  }
#endif
  return copy_runs_singly(to_device);
}

cudaError_t Staging::copy_runs_singly(bool to_device) {
  for (const Run& run : runs_) {
    void* const host = std::bit_cast<void*>(run.host);
    void* const staged = std::bit_cast<void*>(run.staged);
    const cudaError_t error =
        to_device ? cudaMemcpyAsync(staged, host, run.bytes, cudaMemcpyHostToDevice, copies())
                  : cudaMemcpyAsync(host, staged, run.bytes, cudaMemcpyDeviceToHost, copies());
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

cudaError_t Staging::move_chunk(std::span<const CopyPiece> pieces, bool to_device, Chunk& chunk,
                                cudaStream_t work) {
  const cudaStream_t fills = to_device ? copies() : work;
  const cudaStream_t empties = to_device ? work : copies();
  const auto launch = [&] {
    return launch_copy({.pieces = pieces.data(),
                        .count = static_cast<uint32_t>(pieces.size()),
                        .to_device = to_device,
                        .stream = work});
  };
  cudaError_t error = chunk.used ? cudaStreamWaitEvent(fills, chunk.emptied.get(), 0) : cudaSuccess;
  if (error == cudaSuccess) error = to_device ? copy_runs(true) : launch();
  if (error == cudaSuccess) error = cudaEventRecord(chunk.filled.get(), fills);
  if (error == cudaSuccess) error = cudaStreamWaitEvent(empties, chunk.filled.get(), 0);
  if (error == cudaSuccess) error = to_device ? launch() : copy_runs(false);
  if (error == cudaSuccess) error = cudaEventRecord(chunk.emptied.get(), empties);
  if (error == cudaSuccess) error = give_way();
  chunk.used = true;
  return error;
}

cudaError_t Staging::move(std::span<CopyPiece> pieces, bool to_device, cudaStream_t work) {
  while (!pieces.empty()) {
    const size_t number = next_++ % chunks;
    const uint64_t begin = reinterpret_cast<uint64_t>(memory_.get()) + number * chunk_bytes_;
    const uint32_t count = lay_out(pieces, begin);
    const cudaError_t error = move_chunk(pieces.first(count), to_device, chunks_[number], work);
    if (error != cudaSuccess) return error;
    pieces = pieces.subspan(count);
  }
  return cudaSuccess;
}

}  // namespace kvpool
