// NvmeDevice: an NVMe namespace as a Device, by passthrough commands through io_uring on its character
// device: no block layer, no file system, no driver of our own. Data goes by DMA straight into the buffers.
//
// Threads: open() and the destructor on any thread; start() and all else on the owner thread.
// Failure: open() as NvmeDrive, and Errc::unsupported where the kernel (before 5.19) has no such commands.
// Afterwards every request completes exactly once; a command that fails is never tried again here, and the
// first one's status is logged. Nothing allocates after start().

#pragma once

#include <memory>
#include <string>

#include "io/device.h"
#include "io/nvme/nvme_drive.h"
#include "io/uring/ring.h"

namespace kvpool {

struct NvmeDeviceOptions {
  std::string name;
  std::string path;         // /dev/ngXnY
  uint64_t size_bytes = 0;  // of the data area; a multiple of 4096
  uint32_t queue_depth = 32;
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

  Status start(std::span<const std::span<std::byte>> regions) override;
  [[nodiscard]] bool submit(const IoRequest& request) override;
  [[nodiscard]] size_t poll(std::span<IoCompletion> out) override;
  [[nodiscard]] int wait_fd() const override { return ring_.wait_fd(); }
  [[nodiscard]] Nanos next_event_time() const override { return ring_.next_event_time(); }

 private:
  // Whether the kernel takes commands whose buffer is registered memory.
  [[nodiscard]] bool takes_registered(std::span<std::byte> page);

  NvmeDevice(const NvmeDeviceOptions& options, NvmeDrive drive);

  std::string name_;
  NvmeDrive drive_;
  DeviceLimits limits_;
  Ring ring_;  // before the drive that it knows
};

}  // namespace kvpool
