#include "io/nvme/nvme_drive.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/nvme_ioctl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "base/assert.h"
#include "base/units.h"
#include "io/nvme/block_use.h"
#include "io/nvme/command.h"

namespace kvpool {
namespace {

namespace fs = std::filesystem;

constexpr uint32_t page_bytes = 4096;
constexpr uint32_t ioctl_bytes_max = 64U << 10;  // any controller moves that much at once
constexpr uint8_t admin_opcode_identify = 0x06;
constexpr uint32_t identify_namespace = 0;
constexpr uint32_t identify_controller = 1;
// Left alone at a drive's end: there lie backup partition tables and some RAID and file system labels.
constexpr uint64_t tail_bytes = 1ULL << 20;
constexpr uint64_t samples = 254;
constexpr uint32_t blocks_per_command_max = 1U << 16;

// Buffers of the ioctls: aligned as every drive wants.
struct alignas(page_bytes) Chunk {
  std::array<std::byte, ioctl_bytes_max> bytes{};
};

std::string read_line(const fs::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::optional<uint64_t> read_number(const fs::path& path) {
  const std::string line = read_line(path);
  if (line.empty() || line.find_first_not_of("0123456789") != std::string::npos || line.size() > 18)
    return {};
  return std::stoull(line);
}

// "ng0n1" for the character device of a namespace, whatever it is called in /dev; else empty.
std::string kernel_name(const struct stat& about) {
  std::error_code ignored;
  const fs::path link = fmt::format("/sys/dev/char/{}:{}", major(about.st_rdev), minor(about.st_rdev));
  if (fs::canonical(link / "subsystem", ignored).filename() != "nvme-generic") return {};
  return fs::canonical(link, ignored).filename().string();
}

Status check_kind(const struct stat& about, const std::string& path) {
  const auto bad = [&](std::string_view what) {
    return fail(Errc::invalid_argument,
                fmt::format("{}: is {}; an `nvme` device wants the character device of a namespace, such as "
                            "/dev/ng0n1",
                            path, what));
  };
  if (S_ISBLK(about.st_mode)) return bad("a block device");
  if (!S_ISCHR(about.st_mode)) return bad("no device");
  if (kernel_name(about).empty()) return bad("another character device");
  return {};
}

fs::path block_folder(const struct stat& about) {
  const std::string name = kernel_name(about);  // ng0n1 and nvme0n1 are one namespace
  return fs::path("/sys/block") / ("nvme" + name.substr(2));
}

Status check_unused(const fs::path& block, const std::string& path) {
  const std::string use = kernel_use_of(block);
  if (use.empty()) return {};
  return fail(Errc::not_ours, fmt::format("{}: its block device {} {}; it was left alone", path,
                                          block.filename().string(), use));
}

bool is_blank(std::span<const std::byte> bytes) {
  const std::byte first = bytes[0];
  if (first != std::byte{0} && first != std::byte{0xff}) return false;
  return std::ranges::all_of(bytes, [first](std::byte b) { return b == first; });
}

struct flock whole_device(short type) {
  struct flock lock{};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  return lock;
}

// The same command for the blocking ioctl.
nvme_passthru_cmd passthru(const nvme_uring_cmd& command) {
  static_assert(offsetof(nvme_passthru_cmd, timeout_ms) == offsetof(nvme_uring_cmd, timeout_ms));
  return std::bit_cast<nvme_passthru_cmd>(command);
}

// An ioctl's result: a status of the drive's, or -1 and errno.
Status judge(int result, const std::string& path, std::string_view what) {
  if (result == 0) return {};
  if (result > 0) {
    return fail(Errc::io_error,
                fmt::format("{}: {}: {}", path, what, nvme_status_text(static_cast<uint32_t>(result))));
  }
  if (errno == EACCES || errno == EPERM) {
    return fail(Errc::system,
                fmt::format("{}: {}: the kernel does not permit it; kernels before 6.2 let only root "
                            "send commands",
                            path, what));
  }
  return fail_errno(errno, fmt::format("{}: {}", path, what));
}

}  // namespace

bool is_pool_open(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  struct flock lock = whole_device(F_WRLCK);
  const bool asked = fcntl(fd, F_OFD_GETLK, &lock) == 0;
  close(fd);
  return asked && lock.l_type != F_UNLCK;
}

Result<NvmeDrive> NvmeDrive::open(const std::string& path, uint64_t size_bytes) {
  KVPOOL_ASSERT(size_bytes > 0 && size_bytes % page_bytes == 0);
  NvmeDrive drive;
  Status done = drive.acquire(path);
  if (done) done = drive.identify(path);
  if (done) done = drive.check_contents(path);
  if (done) done = drive.write_header(path, size_bytes);
  if (!done) return tl::unexpected(done.error());
  return drive;
}

NvmeDrive::NvmeDrive(NvmeDrive&& other) noexcept { *this = std::move(other); }

NvmeDrive& NvmeDrive::operator=(NvmeDrive&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(block_fd_, other.block_fd_);
  std::swap(unlock_on_close_, other.unlock_on_close_);
  std::swap(namespace_id_, other.namespace_id_);
  std::swap(transfer_bytes_max_, other.transfer_bytes_max_);
  std::swap(identity_, other.identity_);
  std::swap(header_, other.header_);
  return *this;
}

NvmeDrive::~NvmeDrive() {
  if (block_fd_ >= 0) close(block_fd_);
  if (fd_ < 0) return;
  // An io_uring that knew the drive may hold it a little longer than we do.
  if (unlock_on_close_) {
    struct flock unlock = whole_device(F_UNLCK);
    fcntl(fd_, F_OFD_SETLK, &unlock);
  }
  close(fd_);
}

// Nothing is written here.
Status NvmeDrive::acquire(const std::string& path) {
  struct stat about{};
  if (stat(path.c_str(), &about) != 0) return fail_errno(errno, path);
  if (Status kind = check_kind(about, path); !kind) return kind;
  fd_ = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd_ < 0) {
    return fail_errno(
        errno, fmt::format("{}: cannot be opened (your user needs read and write access to it)", path));
  }
  struct flock lock = whole_device(F_WRLCK);
  if (fcntl(fd_, F_OFD_SETLK, &lock) != 0) {
    if (errno != EAGAIN && errno != EACCES)
      return fail_errno(errno, fmt::format("{}: cannot be locked", path));
    return fail(
        Errc::in_use,
        fmt::format("{}: in use by another process; close that pool first, or give this one another drive",
                    path));
  }
  const fs::path block = block_folder(about);
  if (Status unused = check_unused(block, path); !unused) return unused;
  const std::string device = "/dev/" + block.filename().string();
  block_fd_ = ::open(device.c_str(), O_RDONLY | O_EXCL | O_CLOEXEC);
  if (block_fd_ < 0 && errno == EBUSY) {
    return fail(Errc::in_use, fmt::format("{}: {} is in use by the kernel or another process", path, device));
  }
  // Limits of the queue: the kernel refuses a passthrough command that it would have to split. A buffer may
  // lie in pages of 4 KiB, each a segment of its own.
  const uint64_t sectors_kib = read_number(block / "queue/max_hw_sectors_kb").value_or(128);
  const uint64_t segments = read_number(block / "queue/max_segments").value_or(32);
  transfer_bytes_max_ =
      static_cast<uint32_t>(std::min<uint64_t>({sectors_kib << 10, segments * page_bytes, UINT32_MAX}));
  return {};
}

Status NvmeDrive::identify(const std::string& path) {
  const int id = ioctl(fd_, NVME_IOCTL_ID);
  if (id <= 0) return fail_errno(errno, fmt::format("{}: has no namespace number", path));
  namespace_id_ = static_cast<uint32_t>(id);
  const auto pages = std::make_unique<std::array<Chunk, 2>>();
  for (uint32_t i = 0; i < 2; ++i) {
    nvme_passthru_cmd command{};
    command.opcode = admin_opcode_identify;
    command.cdw10 = i == 0 ? identify_controller : identify_namespace;
    command.nsid = i == 0 ? 0 : namespace_id_;
    command.addr = reinterpret_cast<uintptr_t>((*pages)[i].bytes.data());
    command.data_len = nvme_identify_bytes;
    if (Status done = judge(ioctl(fd_, NVME_IOCTL_ADMIN_CMD, &command), path, "cannot be identified");
        !done) {
      return done;
    }
  }
  const auto page = [&](size_t i) {
    return std::span<const std::byte, nvme_identify_bytes>((*pages)[i].bytes.data(), nvme_identify_bytes);
  };
  auto identity = parse_nvme_identity(page(0), page(1), path);
  if (!identity) return tl::unexpected(identity.error());
  identity_ = std::move(*identity);
  const uint64_t most = std::min<uint64_t>({transfer_bytes_max_, identity_.transfer_bytes_max,
                                            uint64_t{blocks_per_command_max} * identity_.block_bytes});
  // A power of two, so that segments are cut into equal pieces.
  transfer_bytes_max_ = static_cast<uint32_t>(std::bit_floor(most));
  if (transfer_bytes_max_ >= std::max(page_bytes, identity_.block_bytes)) return {};
  return fail(Errc::unsupported,
              fmt::format("{}: moves {} bytes at once, less than a block or a page", path, most));
}

Status NvmeDrive::read(uint64_t offset, std::span<std::byte> bytes, const std::string& path) const {
  const auto chunk = std::make_unique<Chunk>();
  // Whole blocks, and no more than any command may move.
  const uint32_t step = std::max(identity_.block_bytes, std::min(ioctl_bytes_max, transfer_bytes_max_));
  for (size_t done = 0; done < bytes.size();) {
    const auto length = static_cast<uint32_t>(std::min<size_t>(step, bytes.size() - done));
    const uint32_t whole =
        (length + identity_.block_bytes - 1) / identity_.block_bytes * identity_.block_bytes;
    auto command = passthru(nvme_command(IoKind::read, namespace_id_, (offset + done) / identity_.block_bytes,
                                         whole, identity_.block_bytes, chunk->bytes.data()));
    if (Status read = judge(ioctl(fd_, NVME_IOCTL_IO_CMD, &command), path, "cannot be read"); !read)
      return read;
    std::copy_n(chunk->bytes.begin(), length, bytes.begin() + static_cast<std::ptrdiff_t>(done));
    done += length;
  }
  return {};
}

// Ours by its header, or blank: at its beginning and its end, where file systems, partition tables, volume
// managers and RAID have their signatures, and in samples in between.
Status NvmeDrive::check_contents(const std::string& path) {
  const uint64_t size = identity_.size_bytes;
  if (size < pool_data_offset_bytes + tail_bytes + page_bytes) {
    return fail(Errc::invalid_argument, fmt::format("{}: has {} only", path, format_bytes(size)));
  }
  std::vector<std::byte> edge(tail_bytes);
  if (Status done = read(0, edge, path); !done) return done;
  PoolHeader header;
  std::memcpy(&header, edge.data(), sizeof header);
  const Status ours = check_pool_header(header, path);
  if (ours) return {};
  bool blank = is_blank(edge);
  if (!blank && ours.error().code == Errc::unsupported) return ours;
  if (Status done = read(size - tail_bytes, edge, path); !done) return done;
  blank = blank && is_blank(edge);
  const uint64_t step = size / (samples + 1) / ioctl_bytes_max * ioctl_bytes_max;
  for (uint64_t i = 1; blank && step > 0 && i <= samples; ++i) {
    const std::span<std::byte> sample = std::span(edge).first(std::max(page_bytes, identity_.block_bytes));
    if (Status done = read(i * step, sample, path); !done) return done;
    blank = is_blank(sample);
  }
  if (blank) return {};
  return fail(Errc::not_ours,
              fmt::format("{}: holds data that kvpool did not write; it was left alone. Give another "
                          "drive, or erase this one yourself if nobody needs it (blkdiscard or "
                          "nvme format)",
                          path));
}

Status NvmeDrive::write_header(const std::string& path, uint64_t size_bytes) {
  const uint64_t room = (identity_.size_bytes - pool_data_offset_bytes - tail_bytes) / identity_.block_bytes *
                        identity_.block_bytes;
  if (size_bytes > room) {
    return fail(Errc::invalid_argument,
                fmt::format("{}: {} do not fit, it has room for {}; make the device smaller", path,
                            format_bytes(size_bytes), format_bytes(room)));
  }
  const uint32_t unit = std::max(page_bytes, identity_.block_bytes);
  header_ = make_pool_header(size_bytes / unit * unit, unit);
  const auto chunk = std::make_unique<Chunk>();
  std::memcpy(chunk->bytes.data(), &header_, sizeof header_);
  auto command = passthru(
      nvme_command(IoKind::write, namespace_id_, 0, unit, identity_.block_bytes, chunk->bytes.data()));
  if (Status done = judge(ioctl(fd_, NVME_IOCTL_IO_CMD, &command), path, "its header cannot be written");
      !done) {
    return done;
  }
  nvme_passthru_cmd flush{};
  flush.opcode = nvme_opcode_flush;
  flush.nsid = namespace_id_;
  return judge(ioctl(fd_, NVME_IOCTL_IO_CMD, &flush), path, "its header cannot be flushed");
}

}  // namespace kvpool
