// The header of a pool file, and the rules that decide whether a file may be written at all. docs/format.md
// specifies both; it was there first.
//
// Thread: any; calls block on the file system. Failure: a Result whose message names the path, what is
// wrong and what to do. A file that is refused is left as it was.

#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>

#include "base/result.h"

namespace kvpool {

inline constexpr uint64_t pool_data_offset_bytes = 1ULL << 20;

struct PoolHeader {
  std::array<char, 8> magic{};
  uint32_t version = 0;
  uint32_t header_bytes = 0;
  std::array<uint8_t, 16> uuid{};
  uint64_t size_bytes = 0;
  uint64_t data_offset_bytes = 0;
  uint32_t alignment_bytes = 0;
  uint32_t owner_pid = 0;
  uint64_t created_unix_ns = 0;
  std::array<char, 64> owner_host{};
  std::array<char, 40> owner_boot_id{};
  std::array<std::byte, 3920> reserved{};
  uint64_t checksum = 0;
};
static_assert(sizeof(PoolHeader) == 4096);
static_assert(offsetof(PoolHeader, size_bytes) == 32);
static_assert(offsetof(PoolHeader, owner_host) == 64);
static_assert(offsetof(PoolHeader, checksum) == 4088);
static_assert(std::is_trivially_copyable_v<PoolHeader>);
static_assert(std::endian::native == std::endian::little, "headers are little-endian");

// A fresh header for this process, complete with its checksum.
[[nodiscard]] PoolHeader make_pool_header(uint64_t size_bytes, uint32_t alignment_bytes);

// Whether these bytes are a header that this version of kvpool wrote. Errc::not_ours, or Errc::unsupported
// for one of a later version; the message begins with `path`.
[[nodiscard]] Status check_pool_header(const PoolHeader& header, const std::string& path);

[[nodiscard]] std::string format_uuid(const std::array<uint8_t, 16>& uuid);

// An open and locked pool file. Move-only; unlocks and closes.
class PoolFile {
 public:
  // Opens or creates the file, locks it, discards its contents and gives it `size_bytes` of data area. A file
  // that this call created is removed again if it fails.
  // REQUIRES: size_bytes > 0 and a multiple of 4096.
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
  [[nodiscard]] Status format(const std::string& path, uint64_t size_bytes);

  int fd_ = -1;
  bool created_ = false;
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
