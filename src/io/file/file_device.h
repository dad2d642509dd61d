// FileDevice: a preallocated pool file as a Device, by direct I/O through io_uring.
//
// submit() only fills the submission ring; poll() sends what has gathered with one system call and takes
// completions out without one where the kernel has them ready.
//
// Threads: open() and the destructor on any thread; start() and all else on the owner thread. The ring is
// made in open(), so that a machine that cannot have one says so before the engine runs, but it is bound to
// its thread in start().
// Failure: open() as PoolFile, and Errc::unsupported where io_uring is forbidden. Afterwards every request
// completes exactly once: a failed or a short one says so and is never tried again here. Nothing allocates
// after start().
// Without O_DIRECT in the file system, or with registration refused, it works more slowly and says so once.

#pragma once

#include <liburing.h>

#include <memory>
#include <string>
#include <vector>

#include "io/bounded_queue.h"
#include "io/device.h"
#include "io/file/pool_header.h"

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
  // Whether start() could register the regions.
  [[nodiscard]] bool registered() const { return !registered_.empty(); }

  Status start(std::span<const std::span<std::byte>> regions) override;
  [[nodiscard]] bool submit(const IoRequest& request) override;
  [[nodiscard]] size_t poll(std::span<IoCompletion> out) override;
  [[nodiscard]] int wait_fd() const override { return ring_.ring_fd; }
  // Requests that the kernel would not take yet are sent by the next poll().
  [[nodiscard]] Nanos next_event_time() const override;

 private:
  struct Slot {
    uint64_t tag = 0;
    uint32_t length_bytes = 0;
  };

  FileDevice(const FileDeviceOptions& options, PoolFile file);
  [[nodiscard]] Status make_ring();
  void register_regions(std::span<const std::span<std::byte>> regions);
  [[nodiscard]] int registered_index(const std::byte* buffer, uint32_t length_bytes) const;
  void send();
  [[nodiscard]] IoCompletion finish(const io_uring_cqe& cqe);

  std::string name_;
  PoolFile file_;
  DeviceLimits limits_;
  io_uring ring_{};
  bool ring_made_ = false;
  bool failure_logged_ = false;
  std::vector<std::span<std::byte>> registered_;  // the kernel's buffers, in its order, which is by address
  std::vector<Slot> slots_;
  BoundedQueue<uint32_t> free_slots_;
};

}  // namespace kvpool
