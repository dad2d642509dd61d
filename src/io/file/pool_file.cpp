#include "io/file/pool_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <optional>
#include <utility>

#include "base/assert.h"
#include "base/units.h"
#include "io/block/block_device.h"
#include "io/block/lock.h"
#include "io/block/whole_device.h"

namespace kvpool {
namespace {

namespace fs = std::filesystem;

constexpr uint32_t alignment_bytes_min = 4096;

const char* kind_of(mode_t mode) {
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISCHR(mode)) return "a character device";
  if (S_ISFIFO(mode)) return "a FIFO";
  return "a socket";
}

Status check_regular(const struct stat& about, const std::string& path) {
  if (S_ISREG(about.st_mode)) return {};
  return fail(Errc::invalid_argument,
              fmt::format("{}: is {}, neither a file nor a block device; give the path of one", path,
                          kind_of(about.st_mode)));
}

Status check_parent(const std::string& path) {
  const fs::path parent = fs::path(path).parent_path();
  std::error_code ignored;
  if (parent.empty() || fs::is_directory(parent, ignored)) return {};
  return fail(Errc::invalid_argument,
              fmt::format("{}: there is no directory {}; create it first", path, parent.string()));
}

// Of a path that stat did not find. A device's name that is mistyped must not become a file in memory.
Status check_new(const std::string& path) {
  std::error_code ignored;
  if (fs::is_symlink(path, ignored)) {
    return fail(
        Errc::invalid_argument,
        fmt::format("{}: is a link to something that cannot be found; remove it, or give another path",
                    path));
  }
  struct stat parent{};
  struct stat devices{};
  struct stat root{};
  if (stat(fs::path(path).parent_path().c_str(), &parent) != 0 || stat("/dev", &devices) != 0 ||
      stat("/", &root) != 0 || parent.st_dev != devices.st_dev || devices.st_dev == root.st_dev) {
    return {};
  }
  return fail(
      Errc::invalid_argument,
      fmt::format(
          "{}: there is no such device, and a file in /dev would lie in memory; lsblk shows the devices",
          path));
}

// The header of a file that is ours; nothing for an empty file; an error for somebody else's.
Result<std::optional<PoolHeader>> identify(int fd, const std::string& path) {
  struct stat about{};
  if (fstat(fd, &about) != 0) return fail_errno(errno, path);
  if (Status regular = check_regular(about, path); !regular) return tl::unexpected(regular.error());
  if (about.st_size == 0) return std::optional<PoolHeader>{};
  const auto header = read_pool_header(fd);
  if (!header) return tl::unexpected(check_pool_header(PoolHeader{}, path).error());
  if (Status ours = check_pool_header(*header, path); !ours) return tl::unexpected(ours.error());
  return header;
}

// A new file is private to its user: it will hold what people wrote to a model.
int open_or_create(const std::string& path, bool& created) {
  int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0 && errno == ENOENT) {
    fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC | O_CREAT | O_EXCL, S_IRUSR | S_IWUSR);
    created = fd >= 0;
  }
  return fd;
}

uint64_t free_bytes_of(int fd) {
  struct statvfs about{};
  return fstatvfs(fd, &about) == 0 ? static_cast<uint64_t>(about.f_bavail) * about.f_frsize : 0;
}

tl::unexpected<Error> no_space(int fd, const std::string& path, uint64_t size_bytes) {
  return fail(Errc::system, fmt::format("{}: {} do not fit on its file system, which has {} free; make the "
                                        "device smaller or free space",
                                        path, format_bytes(size_bytes), format_bytes(free_bytes_of(fd))));
}

Status preallocate(int fd, const std::string& path, uint64_t file_bytes, uint64_t size_bytes) {
  int outcome = 0;
  do {
    outcome = fallocate(fd, 0, 0, static_cast<off_t>(file_bytes));
  } while (outcome != 0 && errno == EINTR);
  if (outcome == 0) return {};
  if (errno == ENOSPC || errno == EDQUOT) return no_space(fd, path, size_bytes);
  if (errno == EOPNOTSUPP) {
    return fail(Errc::unsupported,
                fmt::format("{}: its file system cannot preallocate files (fallocate); use "
                            "ext4, XFS or another that can",
                            path));
  }
  return fail_errno(errno, fmt::format("{}: cannot be given {}", path, format_bytes(size_bytes)));
}

// What direct I/O on this file wants of addresses, offsets and lengths; never less than 4096.
uint32_t alignment_of(int fd) {
#if defined(STATX_DIOALIGN)
  struct statx about{};
  if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &about) == 0 && (about.stx_mask & STATX_DIOALIGN) != 0) {
    return std::max({alignment_bytes_min, about.stx_dio_mem_align, about.stx_dio_offset_align});
  }
#endif
  (void)fd;
  return alignment_bytes_min;
}

Status write_header(int fd, std::span<const std::byte> header, const std::string& path) {
  ssize_t count = 0;
  do {
    count = pwrite(fd, header.data(), header.size(), 0);
  } while (count < 0 && errno == EINTR);
  if (count < 0 && errno == ENOSPC) return no_space(fd, path, header.size());
  if (count != static_cast<ssize_t>(header.size())) {
    return fail_errno(count < 0 ? errno : EIO, fmt::format("{}: its header cannot be written", path));
  }
  if (fsync(fd) != 0) return fail_errno(errno, fmt::format("{}: its header cannot be synced", path));
  return {};
}

}  // namespace

Result<PoolFile> PoolFile::open(const std::string& path, uint64_t size_bytes) {
  KVPOOL_ASSERT(size_bytes > 0 && size_bytes % alignment_bytes_min == 0);
  PoolFile file;
  Status done = file.acquire(path);
  if (done) done = file.is_device_ ? file.format_device(path, size_bytes) : file.format(path, size_bytes);
  if (done) return file;
  if (file.created_) unlink(path.c_str());
  return tl::unexpected(done.error());
}

PoolFile::PoolFile(PoolFile&& other) noexcept { *this = std::move(other); }

PoolFile& PoolFile::operator=(PoolFile&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(created_, other.created_);
  std::swap(is_device_, other.is_device_);
  std::swap(direct_, other.direct_);
  std::swap(unlock_on_close_, other.unlock_on_close_);
  std::swap(header_, other.header_);
  return *this;
}

PoolFile::~PoolFile() {
  if (fd_ < 0) return;
  // An io_uring that knew the file may hold it a little longer than we do.
  if (unlock_on_close_) unlock_whole(fd_);
  close(fd_);
}

// Nothing is written here. Whose file it is gets asked before the lock, so that somebody else's locked file
// is called theirs, and after it, because only then it cannot change any more.
Status PoolFile::acquire(const std::string& path) {
  if (Status parent = check_parent(path); !parent) return parent;
  struct stat about{};
  // Opening a device or a FIFO can have effects of its own.
  if (stat(path.c_str(), &about) == 0) {
    if (S_ISBLK(about.st_mode)) return acquire_device(path);
    if (Status regular = check_regular(about, path); !regular) return regular;
  } else if (Status new_file = check_new(path); !new_file) {
    return new_file;
  }
  fd_ = open_or_create(path, created_);
  if (fd_ < 0) return fail_errno(errno, fmt::format("{}: cannot be opened", path));
  const auto before = identify(fd_, path);
  if (!before) return tl::unexpected(before.error());
  if (!lock_whole(fd_)) {
    if (errno != EAGAIN && errno != EACCES)
      return fail_errno(errno, fmt::format("{}: cannot be locked", path));
    created_ = false;
    return pool_in_use(path, *before);
  }
  const auto after = identify(fd_, path);
  if (!after) return tl::unexpected(after.error());
  if (fstat(fd_, &about) != 0) return fail_errno(errno, path);
  if (about.st_nlink == 0)
    return fail(Errc::system, fmt::format("{}: was deleted while it was opened", path));
  return {};
}

// Nothing is written here either.
Status PoolFile::acquire_device(const std::string& path) {
  const auto fd = take_block_device(path, O_RDWR);
  if (!fd) return tl::unexpected(fd.error());
  fd_ = *fd;
  is_device_ = true;
  if (lock_whole(fd_)) return {};
  return pool_in_use(path, read_pool_header(fd_));
}

Status PoolFile::format_device(const std::string& path, uint64_t size_bytes) {
  auto device = measure_block_device(fd_, path);
  if (!device) return tl::unexpected(device.error());
  direct_ = true;
  if (Status ours = check_contents(*device); !ours) return ours;
  auto header = make_device_header(*device, size_bytes);
  if (!header) return tl::unexpected(header.error());
  header_ = *header;
  const uint32_t unit_bytes = device->unit_bytes();
  const Units memory = take_units(unit_bytes, unit_bytes);
  std::memcpy(memory.get(), &header_, sizeof header_);
  return write_header(fd_, {memory.get(), unit_bytes}, path);
}

Status PoolFile::format(const std::string& path, uint64_t size_bytes) {
  const uint64_t file_bytes = pool_data_offset_bytes + size_bytes;
  struct stat about{};
  if (fstat(fd_, &about) != 0) return fail_errno(errno, path);
  const uint64_t allocated = static_cast<uint64_t>(about.st_blocks) * 512;
  const uint64_t wanted = file_bytes - std::min(file_bytes, allocated);
  // Asked first: a file system that is filled to the brim by an attempt hurts everybody on it.
  if (wanted > free_bytes_of(fd_)) return no_space(fd_, path, size_bytes);
  if (static_cast<uint64_t>(about.st_size) > file_bytes &&
      ftruncate(fd_, static_cast<off_t>(file_bytes)) != 0) {
    return fail_errno(errno, fmt::format("{}: cannot be cut", path));
  }
  header_ = make_pool_header(size_bytes, alignment_of(fd_));
  const auto bytes = std::as_bytes(std::span(&header_, 1));
  if (Status written = write_header(fd_, bytes, path); !written) return written;
  if (Status grown = preallocate(fd_, path, file_bytes, size_bytes); !grown) {
    // Gives back what was taken in part.
    [[maybe_unused]] const int ignored = ftruncate(fd_, sizeof header_);
    return grown;
  }
  // Pages that an earlier, buffered user left would cost direct I/O a look and a flush.
  posix_fadvise(fd_, 0, 0, POSIX_FADV_DONTNEED);
  direct_ = fcntl(fd_, F_SETFL, O_DIRECT) == 0;
  return {};
}

Result<PoolFileInfo> inspect_pool_file(const std::string& path) {
  struct stat about{};
  if (stat(path.c_str(), &about) != 0) return fail_errno(errno, fmt::format("{}: cannot be read", path));
  const bool is_device = S_ISBLK(about.st_mode);
  if (Status regular = check_regular(about, path); !is_device && !regular) {
    return tl::unexpected(regular.error());
  }
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return fail_errno(errno, fmt::format("{}: cannot be read", path));
  PoolFileInfo info;
  info.file_bytes = static_cast<uint64_t>(about.st_size);
  info.allocated_bytes = static_cast<uint64_t>(about.st_blocks) * 512;
  if (is_device && ioctl(fd, BLKGETSIZE64, &info.file_bytes) == 0) info.allocated_bytes = info.file_bytes;
  const auto header = read_pool_header(fd);
  info.in_use = is_device ? is_block_pool_open(path) : is_locked(fd);
  close(fd);
  if (!header && info.file_bytes == 0) return fail(Errc::not_ours, fmt::format("{}: is empty", path));
  info.header = header.value_or(PoolHeader{});
  if (Status ours = check_pool_header(info.header, path); !ours) return tl::unexpected(ours.error());
  return info;
}

}  // namespace kvpool
