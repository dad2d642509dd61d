// CudaTransfer: GpuTransfer over one device, two Lanes and the memory that it has pinned.
// Thread and Failure: those of GpuTransfer.

#pragma once

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "base/wakeup.h"
#include "xfer/cuda/gpu_transfer.h"
#include "xfer/cuda/host_regions.h"
#include "xfer/cuda/plugin/lane.h"
#include "xfer/cuda/plugin/pinned_memory.h"

namespace kvpool {

class CudaTransfer final : public GpuTransfer {
 public:
  [[nodiscard]] static Result<std::unique_ptr<GpuTransfer>> open(const GpuOptions& options);
  ~CudaTransfer() override;

  [[nodiscard]] Status register_host(std::span<std::byte> memory) override;
  [[nodiscard]] Status set_layers(std::vector<PagedLayer> layers) override;
  [[nodiscard]] Result<GpuTicket> submit(const PagedBatch& batch) override;
  [[nodiscard]] size_t poll(std::span<GpuCompletion> out) override;
  [[nodiscard]] Status record(GpuDirection direction, ExternalEvent event) override;
  [[nodiscard]] int event_fd() const override { return wakeup_->fd(); }
  void prepare_wait() override { wakeup_->prepare(); }
  void done_wait() override { wakeup_->done(); }
  [[nodiscard]] const std::string& failure() const override { return failure_; }

 private:
  explicit CudaTransfer(const GpuOptions& options) : options_(options) {}
  [[nodiscard]] Status make();
  [[nodiscard]] Status look_at_device() const;
  // What look() says of both lanes, as soon as nothing is under way, or when the time is up.
  [[nodiscard]] cudaError_t drain() const;
  void leave_behind();
  [[nodiscard]] Status check_segments(const PagedBatch& batch) const;
  [[nodiscard]] Status order_after(Lane& lane, ExternalEvent event);
  // Of what is the caller's: the caller's fault, unless the context is broken.
  [[nodiscard]] Status refuse(const Lane& lane, cudaError_t error, const char* what);
  // Keeps the first error that stays.
  void break_down(cudaError_t error, const char* what);
  [[nodiscard]] Lane& lane(GpuDirection direction) const { return *lanes_[static_cast<size_t>(direction)]; }

  GpuOptions options_;
  std::unique_ptr<Wakeup> wakeup_ = std::make_unique<Wakeup>();
  std::vector<PagedLayer> layers_;
  HostRegions regions_;
  std::vector<PinnedMemory> pinned_;
  std::array<std::unique_ptr<Lane>, 2> lanes_;
  size_t next_polled_ = 0;
  std::string failure_;
};

}  // namespace kvpool
