// Staging: a ring of chunks in GPU memory between host memory and pages. The copy engine moves whole runs of
// host memory, a kernel scatters and gathers; the two work on different chunks at the same time.
//
// Thread: its lane's. Failure: CUDA's code; what was put on streams before it runs on.

#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "xfer/cuda/piece_list.h"
#include "xfer/cuda/plugin/cuda_handles.h"

namespace kvpool {

class Staging {
 public:
  static constexpr size_t chunks = 4;

  // REQUIRES: bytes is at least chunks * 1 MiB. give_way_bytes: GpuOptions.
  [[nodiscard]] Status open(uint64_t bytes, uint32_t pieces_max, uint64_t give_way_bytes);

  // Moves the pieces, `to_device` or back. Kernels run on `work`; for a load its end is theirs, for a store
  // the end is that of copies(). The pieces' host addresses are replaced by those in the ring. REQUIRES: each
  // piece has at most 64 KiB.
  [[nodiscard]] cudaError_t move(std::span<CopyPiece> pieces, bool to_device, cudaStream_t work);
  // The stream behind all copies so far; move() may change it.
  [[nodiscard]] cudaStream_t copies() const { return copies_[turn_].get(); }
  [[nodiscard]] const std::array<Stream, 2>& all_copies() const { return copies_; }

 private:
  struct Chunk {
    Event filled;
    Event emptied;
    bool used = false;
  };
  struct Run {
    uint64_t host = 0;
    uint64_t staged = 0;
    uint64_t bytes = 0;
  };

  // Gives as many of the first pieces a place in the chunk as fit; returns how many.
  [[nodiscard]] uint32_t lay_out(std::span<CopyPiece> pieces, uint64_t chunk_begin);
  [[nodiscard]] cudaError_t copy_runs(bool to_device);
  [[nodiscard]] cudaError_t give_way();
  [[nodiscard]] cudaError_t copy_runs_singly(bool to_device);
  [[nodiscard]] cudaError_t move_chunk(std::span<const CopyPiece> pieces, bool to_device, Chunk& chunk,
                                       cudaStream_t work);

  uint64_t chunk_bytes_ = 0;
  DeviceMemory memory_;
  std::array<Chunk, chunks> chunks_;
  size_t next_ = 0;
  std::vector<Run> runs_;  // of one chunk
  // The same, as cudaMemcpyBatchAsync() wants them.
  std::vector<void*> to_;
  std::vector<void*> from_;
  std::vector<size_t> lengths_;
  bool has_batches_ = true;       // as far as it has been tried
  std::array<Stream, 2> copies_;  // by turns
  size_t turn_ = 0;
  Event copied_;
  uint64_t give_way_bytes_ = 0;
  uint64_t copied_bytes_ = 0;  // since it gave way
};

}  // namespace kvpool
