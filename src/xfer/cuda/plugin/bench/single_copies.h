// SingleCopies: the baseline of the bench, a GpuTransfer that gives the copy engine a command a piece. It
// does no more than the bench asks for: host memory is registered by somebody else, and events are for
// nobody.
//
// Thread: one owner thread; the destructor waits. Failure: as of GpuTransfer.

#pragma once

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "base/wakeup.h"
#include "xfer/cuda/gpu_transfer.h"
#include "xfer/cuda/piece_list.h"
#include "xfer/cuda/plugin/cuda_handles.h"

namespace kvpool {

class SingleCopies final : public GpuTransfer {
 public:
  [[nodiscard]] static Result<std::unique_ptr<GpuTransfer>> open();
  ~SingleCopies() override;

  [[nodiscard]] Status register_host(std::span<std::byte> /*memory*/) override { return {}; }
  [[nodiscard]] Status set_layers(std::vector<PagedLayer> layers) override;
  [[nodiscard]] Result<GpuTicket> submit(const PagedBatch& batch) override;
  [[nodiscard]] size_t poll(std::span<GpuCompletion> out) override;
  [[nodiscard]] Status record(GpuDirection /*direction*/, ExternalEvent /*event*/) override {
    return fail(Errc::unsupported, "not asked for");
  }
  [[nodiscard]] int event_fd() const override { return wakeup_.fd(); }
  void prepare_wait() override { wakeup_.prepare(); }
  void done_wait() override { wakeup_.done(); }
  [[nodiscard]] const std::string& failure() const override { return failure_; }

 private:
  static constexpr size_t batches_max = 8;
  static constexpr size_t pieces_max = 16384;

  struct Side {
    Stream copies;
    Stream notices;
    std::array<Event, batches_max> done;
    uint64_t submitted = 0;
    uint64_t completed = 0;
  };

  SingleCopies() : pieces_(pieces_max) {}
  [[nodiscard]] Status make();
  [[nodiscard]] Side& side(GpuDirection direction) { return sides_[static_cast<size_t>(direction)]; }
  [[nodiscard]] cudaError_t issue(Side& side, std::span<const CopyPiece> pieces, bool to_device);

  Wakeup wakeup_;
  std::vector<PagedLayer> layers_;
  std::vector<CopyPiece> pieces_;  // of the batch that is being submitted
  std::string failure_;
  std::array<Side, 2> sides_;
};

}  // namespace kvpool
