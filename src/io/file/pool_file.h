// A pool's file, or the block device that takes its place, and the rules that decide whether it may be
// written at all. docs/format.md specifies them.
//
// Thread: any; calls block on the file system. Failure: a Result whose message names the path, what is
// wrong and what to do. A file that is refused is left as it was.

#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"
#include "io/pool_header.h"

namespace kvpool {

// An open and locked pool file. Move-only; unlocks and closes.
class PoolFile {
 public:
  // Opens or creates the file (a device is there, or it is an error), locks it, discards its contents and
  // gives it `size_bytes` of data area. A file that this call created is removed again if it fails. REQUIRES:
  // size_bytes > 0 and a multiple of 4096.
  [[nodiscard]] static Result<PoolFile> open(const std::string& path, uint64_t size_bytes);

  PoolFile(PoolFile&& other) noexcept;
  PoolFile& operator=(PoolFile&& other) noexcept;
  ~PoolFile();

  [[nodiscard]] int fd() const { return fd_; }
  [[nodiscard]] const PoolHeader& header() const { return header_; }
  // False where the file system has no O_DIRECT: I/O then goes through the page cache.
  [[nodiscard]] bool direct() const { return direct_; }
  // For an owner with I/O under way: the kernel then drops the lock when the last of it is done.
  void leave_lock_to_kernel() { unlock_on_close_ = false; }

 private:
  PoolFile() = default;
  [[nodiscard]] Status acquire(const std::string& path);
  [[nodiscard]] Status acquire_device(const std::string& path);
  [[nodiscard]] Status format(const std::string& path, uint64_t size_bytes);
  [[nodiscard]] Status format_device(const std::string& path, uint64_t size_bytes);

  int fd_ = -1;
  bool created_ = false;
  bool is_device_ = false;
  bool direct_ = false;
  bool unlock_on_close_ = true;
  PoolHeader header_;
};

// What `kvpool stat` shows. Nothing is locked or written.
struct PoolFileInfo {
  PoolHeader header;
  uint64_t file_bytes = 0;
  uint64_t allocated_bytes = 0;
  bool in_use = false;  // by a process that lives; header.owner_pid as a rule
};
[[nodiscard]] Result<PoolFileInfo> inspect_pool_file(const std::string& path);

}  // namespace kvpool
