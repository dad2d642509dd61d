// Lane: one direction of a GpuTransfer. It has streams of copies (Staging), of kernels and of notices, a ring
// of batches under way, and for each of them a list of pieces in pinned memory, which the kernel reads.
//
// Thread: the transfer's owner; waking runs on a thread of CUDA's. Failure: issue() says what CUDA refused;
// nothing may be issued after that. The batch completes as failed, when what was put on streams has ended.
// REQUIRES: it is closed when look() says that nothing is under way, or that the context is broken.

#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/wakeup.h"
#include "xfer/cuda/gpu_transfer.h"
#include "xfer/cuda/piece_list.h"
#include "xfer/cuda/plugin/cuda_handles.h"
#include "xfer/cuda/plugin/staging.h"

namespace kvpool {

class Lane {
 public:
  // `wakeup` outlives the lane.
  [[nodiscard]] static Result<std::unique_ptr<Lane>> open(const GpuOptions& options, GpuDirection direction,
                                                          Wakeup& wakeup);
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  [[nodiscard]] bool full() const { return submitted_ - completed_ == slots_.size(); }
  [[nodiscard]] bool idle() const { return submitted_ == completed_; }

  // Where the next batch's pieces are listed. REQUIRES: not full().
  [[nodiscard]] std::span<CopyPiece> room() const;
  // Cuts them as the kernel wants them. too_large: they do not fit.
  [[nodiscard]] Status cut(PieceTotals& totals) const;
  // Where the next batch's checks are listed; of a store there is no room.
  [[nodiscard]] std::span<CheckedPieces> check_room() const;
  // The next batch begins after that event. What CUDA refuses is the caller's fault, unless the context is
  // broken.
  [[nodiscard]] cudaError_t begin_after(cudaEvent_t external);
  // Puts the pieces in room() on the streams, behind them the first `checks` in check_room(), and takes the
  // next number. REQUIRES: not full(); cut(totals); no issue() before has failed.
  [[nodiscard]] cudaError_t issue(const PieceTotals& totals, uint32_t checks);
  [[nodiscard]] uint64_t submitted() const { return submitted_; }

  // The oldest batch, if it has ended. `broken`: CUDA's error, if it is one that stays.
  [[nodiscard]] std::optional<GpuCompletion> take(cudaError_t& broken);
  // Behind all that was issued.
  [[nodiscard]] cudaError_t record(cudaEvent_t external) const { return cudaEventRecord(external, last()); }
  // cudaSuccess: nothing is under way; cudaErrorNotReady: something is; else the error that broke the
  // context.
  [[nodiscard]] cudaError_t look() const;

 private:
  struct Slot {
    Pinned<CopyPiece> pieces;
    Pinned<CheckedPieces> checks;  // of loads
    Event done;
    bool whole = false;  // all of it was put on streams, and `done` after it
  };

  Lane(const GpuOptions& options, GpuDirection direction, Wakeup& wakeup)
      : options_(options), direction_(direction), wakeup_(wakeup), slots_(options.batches_max) {}
  [[nodiscard]] Status make();
  [[nodiscard]] Slot& slot(uint64_t number) { return slots_[number % slots_.size()]; }
  [[nodiscard]] uint32_t* wrong(uint64_t number) { return wrong_.get() + number % slots_.size(); }
  [[nodiscard]] cudaError_t announce(Slot& slot);
  // Where a batch ends.
  [[nodiscard]] cudaStream_t last() const;

  GpuOptions options_;
  GpuDirection direction_;
  Wakeup& wakeup_;
  Stream work_;
  Stream notices_;
  Staging staging_;
  std::vector<Slot> slots_;
  Pinned<uint32_t> wrong_;  // [slots]; 1: a check has failed
  uint64_t submitted_ = 0;
  uint64_t completed_ = 0;
};

}  // namespace kvpool
