// NvmeDevice: an NVMe namespace as a Device, by passthrough commands through io_uring on its character
// device: no block layer, no file system, no driver of our own. Data goes by DMA straight into the buffers.
//
// Threads: open() and the destructor on any thread; start() and all else on the owner thread.
// Failure: open() as NvmeDrive, and Errc::unsupported where the kernel (before 5.19) has no such commands.
// Afterwards every request completes exactly once; a command that fails is never tried again here, and the
// first one's status is logged. A discard that the drive refuses is the last one, and is said.
// Nothing allocates after start().

#pragma once

#include <memory>
#include <string>

#include "io/device.h"
#include "io/discards.h"
#include "io/nvme/command.h"
#include "io/nvme/nvme_drive.h"
#include "io/uring/ring.h"

namespace kvpool {

struct NvmeDeviceOptions {
  std::string name;
  std::string path;         // /dev/ngXnY
  uint64_t size_bytes = 0;  // of the data area; a multiple of 4096
  uint32_t queue_depth = 32;
  bool discard = false;      // freed ranges are deallocated on the drive
  bool polled = true;        // by the drive's poll queues, where it has them and the kernel is to be trusted
  double poll_slack = 0.04;  // PollPace, of polled queues
};

class NvmeDevice final : public Device {
 public:
  [[nodiscard]] static Result<std::unique_ptr<NvmeDevice>> open(const NvmeDeviceOptions& options);
  ~NvmeDevice() override;

  [[nodiscard]] const std::string& name() const override { return name_; }
  [[nodiscard]] DeviceLimits limits() const override { return limits_; }
  [[nodiscard]] const NvmeDrive& drive() const { return drive_; }
  // Whether start() could register the regions.
  [[nodiscard]] bool registered() const { return ring_.registered(); }
  // Whether commands go to the drive's poll queues.
  [[nodiscard]] bool polled() const { return ring_.wait_fd() < 0; }

  Status start(std::span<const std::span<std::byte>> regions) override;
  [[nodiscard]] bool submit(const IoRequest& request) override;
  [[nodiscard]] bool discard(ByteOffset offset, uint64_t length_bytes) override;
  [[nodiscard]] size_t poll(std::span<IoCompletion> out) override;
  [[nodiscard]] int wait_fd() const override { return ring_.wait_fd(); }
  [[nodiscard]] Nanos next_event_time() const override {
    return wants_discard() ? Nanos{0} : ring_.next_event_time();
  }

 private:
  // Whether the kernel takes commands whose buffer is registered memory.
  [[nodiscard]] bool takes_registered(std::span<std::byte> page);

  NvmeDevice(const NvmeDeviceOptions& options, NvmeDrive drive);

  [[nodiscard]] bool prepare(const IoRequest& request, const nvme_uring_cmd& command);
  [[nodiscard]] bool wants_discard() const { return !discard_refused_ && discards_.can_send(); }
  void send_discards();
  [[nodiscard]] bool judge(int32_t result, uint32_t length_bytes, IoCompletion& completion);
  [[nodiscard]] uint64_t block_at(uint64_t offset) const {
    return (pool_data_offset_bytes + offset) / drive_.identity().block_bytes;
  }

  std::string name_;
  NvmeDrive drive_;
  DeviceLimits limits_;
  Discards discards_;
  std::unique_ptr<NvmeRange[]> discarding_;  // of the command under way; read by the drive
  bool discard_refused_ = false;
  uint32_t under_way_ = 0;  // requests, the discard apart
  Ring ring_;               // before the drive that it knows
};

}  // namespace kvpool
