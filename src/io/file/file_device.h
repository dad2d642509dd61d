// FileDevice: a preallocated pool file, or a block device, as a Device, by direct I/O through io_uring.
//
// Threads: open() and the destructor on any thread; start() and all else on the owner thread.
// Failure: open() as PoolFile, and Errc::unsupported where io_uring is forbidden. Afterwards every request
// completes exactly once: a failed or a short one says so and is never tried again here. Nothing allocates
// after start().
// Without O_DIRECT in the file system, or with registration refused, it works more slowly and says so once.

#pragma once

#include <memory>
#include <string>

#include "io/device.h"
#include "io/file/pool_file.h"
#include "io/uring/ring.h"

namespace kvpool {

struct FileDeviceOptions {
  std::string name;
  std::string path;
  uint64_t size_bytes = 0;  // of the data area; cut down to a multiple of 4096
  uint32_t queue_depth = 32;
};

class FileDevice final : public Device {
 public:
  [[nodiscard]] static Result<std::unique_ptr<FileDevice>> open(const FileDeviceOptions& options);
  ~FileDevice() override;

  [[nodiscard]] const std::string& name() const override { return name_; }
  [[nodiscard]] DeviceLimits limits() const override { return limits_; }
  [[nodiscard]] const PoolHeader& header() const { return file_.header(); }
  [[nodiscard]] bool direct() const { return file_.direct(); }
  // Whether start() could register the memory in which it lies.
  [[nodiscard]] bool registered(const std::byte* buffer, uint32_t length_bytes) const {
    return ring_.registered_index(buffer, length_bytes) >= 0;
  }

  void offer(std::span<std::byte> memory) override { ring_.offer(memory); }
  Status start(std::span<const std::span<std::byte>> regions) override;
  [[nodiscard]] bool submit(const IoRequest& request) override;
  [[nodiscard]] size_t poll(std::span<IoCompletion> out) override;
  [[nodiscard]] int wait_fd() const override { return ring_.wait_fd(); }
  [[nodiscard]] Nanos next_event_time() const override { return ring_.next_event_time(); }

 private:
  FileDevice(const FileDeviceOptions& options, PoolFile file);

  std::string name_;
  PoolFile file_;
  DeviceLimits limits_;
  Ring ring_;  // before the file that it knows
};

}  // namespace kvpool
