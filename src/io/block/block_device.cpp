#include "io/block/block_device.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <optional>
#include <system_error>

#include "io/block/block_use.h"
#include "io/block/lock.h"
#include "io/block/sysfs.h"

namespace kvpool {
namespace {

namespace fs = std::filesystem;

// In sysfs; empty where it is not known there.
fs::path folder_of(const struct stat& about) {
  std::error_code ignored;
  return fs::canonical(fmt::format("/sys/dev/block/{}:{}", major(about.st_rdev), minor(about.st_rdev)),
                       ignored);
}

bool has_pool_open(const std::string& path, const fs::path& folder) {
  const std::string character = nvme_character_device_of(folder);
  return is_locked(path) || (!character.empty() && is_locked(character));
}

tl::unexpected<Error> device_in_use(const std::string& path, const fs::path& folder) {
  if (!has_pool_open(path, folder)) {
    return fail(Errc::in_use, fmt::format("{}: is in use by the kernel or another process", path));
  }
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  const auto header = fd < 0 ? std::nullopt : read_pool_header(fd);
  if (fd >= 0) close(fd);
  return pool_in_use(path, header);
}

Status check_unused(const std::string& path, const fs::path& folder) {
  const std::string use = kernel_use_of(folder);
  if (use.empty()) return {};
  return fail(Errc::not_ours, fmt::format("{}: {}; it was left alone", path, use));
}

// What no device may be, whatever it holds.
Status check_writable(const std::string& path, const fs::path& folder) {
  if (folder.empty()) {
    return fail(Errc::unsupported,
                fmt::format("{}: is not in /sys, so it cannot be asked whether it is in use", path));
  }
  if (read_number(folder / "ro").value_or(1) != 0) {
    return fail(Errc::unsupported, fmt::format("{}: is read-only", path));
  }
  // A partition's queue is its disk's.
  std::error_code ignored;
  const fs::path disk = fs::exists(folder / "partition", ignored) ? folder.parent_path() : folder;
  if (read_line(disk / "queue/zoned") == "none") return {};
  return fail(Errc::unsupported, fmt::format("{}: is a zoned device; kvpool writes anywhere", path));
}

Status read_device(int fd, uint64_t offset, std::span<std::byte> bytes, const std::string& path) {
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t count =
        pread(fd, bytes.data() + done, bytes.size() - done, static_cast<off_t>(offset + done));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return fail_errno(count < 0 ? errno : EIO, fmt::format("{}: cannot be read", path));
    done += static_cast<size_t>(count);
  }
  return {};
}

// It is the device that was asked about, and free now that nobody can begin to use it.
Status check_taken(int fd, const struct stat& before, const std::string& path, const fs::path& folder) {
  struct stat opened{};
  if (fstat(fd, &opened) != 0) return fail_errno(errno, path);
  if (!S_ISBLK(opened.st_mode) || opened.st_rdev != before.st_rdev) {
    return fail(Errc::system, fmt::format("{}: was replaced while it was opened", path));
  }
  if (Status unused = check_unused(path, folder); !unused) return unused;
  if (has_pool_open(path, folder)) return device_in_use(path, folder);
  return {};
}

}  // namespace

Result<int> take_block_device(const std::string& path, int flags) {
  struct stat about{};
  if (stat(path.c_str(), &about) != 0) return fail_errno(errno, path);
  if (!S_ISBLK(about.st_mode)) {
    return fail(Errc::invalid_argument, fmt::format("{}: is no block device", path));
  }
  const fs::path folder = folder_of(about);
  if (Status writable = check_writable(path, folder); !writable) return tl::unexpected(writable.error());
  const int fd = claim_block_device(path, flags, folder);
  if (fd < 0 && errno == EBUSY) {
    // What it is used for says more, where that can be told.
    if (Status unused = check_unused(path, folder); !unused) return tl::unexpected(unused.error());
    return device_in_use(path, folder);
  }
  if (fd < 0) {
    return fail_errno(
        errno, fmt::format("{}: cannot be opened (your user needs read and write access to it)", path));
  }
  if (Status taken = check_taken(fd, about, path, folder); !taken) {
    close(fd);
    return tl::unexpected(taken.error());
  }
  return fd;
}

Result<WholeDevice> measure_block_device(int fd, const std::string& path) {
  uint64_t size_bytes = 0;
  int block_bytes = 0;
  if (ioctl(fd, BLKGETSIZE64, &size_bytes) != 0 || ioctl(fd, BLKSSZGET, &block_bytes) != 0) {
    return fail_errno(errno, fmt::format("{}: does not tell its size", path));
  }
  constexpr int block_bytes_max = 64 << 10;
  if (block_bytes < 512 || block_bytes > block_bytes_max) {
    return fail(Errc::unsupported,
                fmt::format("{}: has blocks of {} bytes; 512 to 65536 can be used", path, block_bytes));
  }
  if (fcntl(fd, F_SETFL, O_DIRECT) != 0) return fail_errno(errno, fmt::format("{}: has no O_DIRECT", path));
  return WholeDevice{.path = path,
                     .size_bytes = size_bytes / block_bytes * block_bytes,
                     .block_bytes = static_cast<uint32_t>(block_bytes),
                     .block_path = path,
                     .read = [fd, path](uint64_t offset, std::span<std::byte> bytes) {
                       return read_device(fd, offset, bytes, path);
                     }};
}

bool is_block_pool_open(const std::string& path) {
  struct stat about{};
  return stat(path.c_str(), &about) == 0 && has_pool_open(path, folder_of(about));
}

}  // namespace kvpool
