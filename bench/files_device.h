// FilesDevice: today's way of keeping KV caches on a disk, as a Device: chunk files of one size, read and
// written through the page cache by a few worker threads, one blocking call after the other. It is the
// baseline, and as good as such code gets: the kernel is told of a whole request before its first byte is
// copied, so that it reads ahead in large pieces.
//
// Offset o of the device is byte o % chunk_bytes of chunk o / chunk_bytes. A request may cross chunks.
//
// Thread: as any Device; its workers end with it. Failure: as any Device; a file that ends early is a short
// request.

#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "bench/files_directory.h"
#include "io/device.h"

namespace kvpool::bench {

struct FilesDeviceOptions {
  std::string name;
  uint64_t size_bytes = 0;
  uint64_t chunk_bytes = 0;  // one file; a multiple of 4096
  uint32_t workers = 4;
  uint32_t queue_depth = 64;
};

class FilesDevice final : public Device {
 public:
  // Makes the chunk files. REQUIRES: directory outlives the device and is used by no other.
  [[nodiscard]] static Result<std::unique_ptr<FilesDevice>> create(FilesDirectory& directory,
                                                                   const FilesDeviceOptions& options);
  ~FilesDevice() override;

  [[nodiscard]] const std::string& name() const override { return options_.name; }
  [[nodiscard]] DeviceLimits limits() const override;
  [[nodiscard]] bool submit(const IoRequest& request) override;
  [[nodiscard]] size_t poll(std::span<IoCompletion> out) override;
  [[nodiscard]] int wait_fd() const override { return event_fd_.get(); }

  // Whether to drop what was read from the page cache at once, for runs that read the same bytes again before
  // anybody else drops them. It costs a tenth of the speed. Any thread.
  void set_forget(bool forget) { forget_.store(forget, std::memory_order_relaxed); }

 private:
  FilesDevice(FilesDirectory& directory, const FilesDeviceOptions& options, FileHandle event_fd);
  void work();
  [[nodiscard]] IoCompletion serve(const IoRequest& request);
  // Moves one chunk's part of a request; returns the bytes moved, or -1 with errno.
  [[nodiscard]] int64_t move(const IoRequest& request, uint64_t done);

  FilesDirectory& directory_;
  FilesDeviceOptions options_;
  FileHandle event_fd_;
  std::atomic<bool> forget_{false};

  std::mutex mutex_;  // of everything below
  std::condition_variable work_there_;
  std::vector<IoRequest> waiting_;  // a ring of queue_depth
  size_t waiting_first_ = 0;
  size_t waiting_count_ = 0;
  std::vector<IoCompletion> finished_;
  uint32_t in_flight_ = 0;  // submitted and not yet polled
  bool stopping_ = false;
  std::vector<std::thread> workers_;
};

}  // namespace kvpool::bench
