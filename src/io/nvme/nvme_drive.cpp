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
#include <memory>
#include <system_error>
#include <utility>

#include "base/assert.h"
#include "base/log.h"
#include "io/block/block_use.h"
#include "io/block/lock.h"
#include "io/block/sysfs.h"
#include "io/nvme/command.h"

namespace kvpool {
namespace {

namespace fs = std::filesystem;

constexpr uint32_t page_bytes = 4096;
constexpr uint32_t ioctl_bytes_max = 64U << 10;  // any controller moves that much at once
constexpr uint8_t admin_opcode_identify = 0x06;
constexpr uint32_t identify_namespace = 0;
constexpr uint32_t identify_controller = 1;
constexpr uint32_t identify_controller_nvm = 6;  // for the NVM command set
constexpr uint32_t blocks_per_command_max = 1U << 16;

// Buffers of the ioctls: aligned as every drive wants.
struct alignas(page_bytes) Chunk {
  std::array<std::byte, ioctl_bytes_max> bytes{};
};

// Of the character device of a namespace, whatever it is called in /dev; else empty.
fs::path sysfs_folder(const struct stat& about) {
  std::error_code ignored;
  const fs::path link = fmt::format("/sys/dev/char/{}:{}", major(about.st_rdev), minor(about.st_rdev));
  if (fs::canonical(link / "subsystem", ignored).filename() != "nvme-generic") return {};
  return fs::canonical(link, ignored);
}

// The folder of the same namespace's block device; empty where there is none. Not by its name: with multipath
// the two may be numbered differently.
fs::path block_device_of(const fs::path& generic, uint32_t namespace_id) {
  std::error_code error;
  const fs::path owner = fs::canonical(generic / "device", error);
  if (error) return {};
  for (fs::directory_iterator at("/sys/block", error), end; !error && at != end; at.increment(error)) {
    const fs::path block = at->path();
    if (!block.filename().string().starts_with("nvme")) continue;
    std::error_code ignored;
    if (fs::canonical(block / "device", ignored) == owner && read_number(block / "nsid") == namespace_id)
      return block;
  }
  return {};
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
  if (sysfs_folder(about).empty()) return bad("another character device");
  return {};
}

Status check_unused(const fs::path& block, const std::string& path) {
  const std::string use = kernel_use_of(block);
  if (use.empty()) return {};
  return fail(Errc::not_ours, fmt::format("{}: its block device {} {}; it was left alone", path,
                                          block.filename().string(), use));
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
                            "send commands, later ones also those who may write to it",
                            path, what));
  }
  return fail_errno(errno, fmt::format("{}: {}", path, what));
}

}  // namespace

Result<NvmeDrive> NvmeDrive::open(const std::string& path, uint64_t size_bytes, bool discards) {
  KVPOOL_ASSERT(size_bytes > 0 && size_bytes % page_bytes == 0);
  NvmeDrive drive;
  Status done = drive.acquire(path);
  if (done) done = drive.identify(path);
  if (done && discards) done = drive.identify_discards(path);
  if (done) done = check_contents(drive.whole(path));
  if (done) done = drive.write_header(path, size_bytes);
  if (!done) return tl::unexpected(done.error());
  return drive;
}

NvmeDrive::NvmeDrive(NvmeDrive&& other) noexcept { *this = std::move(other); }

NvmeDrive& NvmeDrive::operator=(NvmeDrive&& other) noexcept {
  std::swap(block_path_, other.block_path_);
  std::swap(fds_, other.fds_);
  std::swap(unlock_on_close_, other.unlock_on_close_);
  std::swap(namespace_id_, other.namespace_id_);
  std::swap(transfer_bytes_max_, other.transfer_bytes_max_);
  std::swap(has_poll_queues_, other.has_poll_queues_);
  std::swap(identity_, other.identity_);
  std::swap(discard_limits_, other.discard_limits_);
  std::swap(header_, other.header_);
  return *this;
}

NvmeDrive::~NvmeDrive() {
  if (fds_[1] >= 0) close(fds_[1]);
  if (fds_[0] < 0) return;
  // An io_uring that knew the drive may hold it a little longer than we do.
  if (unlock_on_close_) unlock_whole(fds_[0]);
  close(fds_[0]);
}

// Nothing is written here.
Status NvmeDrive::acquire(const std::string& path) {
  struct stat about{};
  if (stat(path.c_str(), &about) != 0) {
    return fail_errno(errno, path + ": cannot be found (`kvpool device list` shows the drives)");
  }
  // Opening another device can have effects of its own.
  if (Status kind = check_kind(about, path); !kind) return kind;
  fds_[0] = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fds_[0] < 0) {
    return fail_errno(
        errno, fmt::format("{}: cannot be opened (your user needs read and write access to it)", path));
  }
  if (fstat(fds_[0], &about) != 0) return fail_errno(errno, path);
  if (Status kind = check_kind(about, path); !kind) return kind;
  if (!lock_whole(fds_[0])) {
    if (errno != EAGAIN && errno != EACCES)
      return fail_errno(errno, fmt::format("{}: cannot be locked", path));
    return fail(
        Errc::in_use,
        fmt::format("{}: in use by another process; close that pool first, or give this one another drive",
                    path));
  }
  const int id = ioctl(fds_[0], NVME_IOCTL_ID);
  if (id <= 0) return fail_errno(errno, fmt::format("{}: has no namespace number", path));
  namespace_id_ = static_cast<uint32_t>(id);
  const fs::path block = block_device_of(sysfs_folder(about), namespace_id_);
  if (block.empty()) {
    return fail(Errc::unsupported,
                fmt::format("{}: has no block device of which it could be asked whether it is in use", path));
  }
  return take_block_device(block, path);
}

Status NvmeDrive::take_block_device(const fs::path& block, const std::string& path) {
  block_path_ = "/dev/" + block.filename().string();
  fds_[1] = claim_block_device(block_path_, O_RDONLY, block);
  if (fds_[1] < 0 && errno == EBUSY) {
    // What it is used for says more, where that can be told.
    if (Status unused = check_unused(block, path); !unused) return unused;
    return fail(Errc::in_use,
                fmt::format("{}: {} is in use by the kernel or another process", path, block_path_));
  }
  if (fds_[1] < 0) {
    log_warn("{}: {} cannot be opened ({}), so nothing keeps others from using it while the pool has it",
             path, block_path_, std::generic_category().message(errno));
  } else if (fsync(fds_[1]) != 0) {  // what others wrote and the drive has not seen yet
    return fail_errno(errno, fmt::format("{}: {} cannot be synced", path, block_path_));
  }
  if (Status unused = check_unused(block, path); !unused) return unused;
  if (read_line(block / "queue/zoned") != "none") {
    return fail(Errc::unsupported, fmt::format("{}: is a zoned namespace; kvpool writes anywhere", path));
  }
  if (read_number(block / "ro").value_or(1) != 0) {
    return fail(Errc::unsupported, fmt::format("{}: is read-only", path));
  }
  has_poll_queues_ = read_number(block / "queue/io_poll").value_or(0) == 1;
  // Limits of the queue: the kernel refuses a passthrough command that it would have to split. A buffer may
  // lie in pages of 4 KiB, each a segment of its own.
  const uint64_t sectors_kib = read_number(block / "queue/max_hw_sectors_kb").value_or(128);
  const uint64_t segments = read_number(block / "queue/max_segments").value_or(32);
  transfer_bytes_max_ =
      static_cast<uint32_t>(std::min<uint64_t>({sectors_kib << 10, segments * page_bytes, UINT32_MAX}));
  return {};
}

Status NvmeDrive::identify(const std::string& path) {
  const auto pages = std::make_unique<std::array<Chunk, 2>>();
  for (uint32_t i = 0; i < 2; ++i) {
    nvme_passthru_cmd command{};
    command.opcode = admin_opcode_identify;
    command.cdw10 = i == 0 ? identify_controller : identify_namespace;
    command.nsid = i == 0 ? 0 : namespace_id_;
    command.addr = reinterpret_cast<uintptr_t>((*pages)[i].bytes.data());
    command.data_len = nvme_identify_bytes;
    if (Status done = judge(ioctl(fds_[0], NVME_IOCTL_ADMIN_CMD, &command), path, "cannot be identified");
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

Status NvmeDrive::identify_discards(const std::string& path) {
  if (!identity_.discards) {
    return fail(Errc::unsupported,
                fmt::format("{}: {} knows no Dataset Management command, so nothing can be discarded; set "
                            "discard = false",
                            path, identity_.model));
  }
  const auto page = std::make_unique<Chunk>();
  nvme_passthru_cmd command{};
  command.opcode = admin_opcode_identify;
  command.cdw10 = identify_controller_nvm;
  command.addr = reinterpret_cast<uintptr_t>(page->bytes.data());
  command.data_len = nvme_identify_bytes;
  // Controllers of before NVMe 2.0 refuse it; they have no such limits.
  if (ioctl(fds_[0], NVME_IOCTL_ADMIN_CMD, &command) != 0) page->bytes.fill(std::byte{0});
  discard_limits_ = parse_nvme_discard_limits(
      std::span<const std::byte, nvme_identify_bytes>(page->bytes.data(), nvme_identify_bytes),
      identity_.block_bytes);
  return {};
}

Status NvmeDrive::read(uint64_t offset, std::span<std::byte> bytes, const std::string& path) const {
  // Whole blocks, and no more than any command may move.
  const uint32_t step = std::max(identity_.block_bytes, std::min(ioctl_bytes_max, transfer_bytes_max_));
  for (size_t done = 0; done < bytes.size();) {
    const auto length = static_cast<uint32_t>(std::min<size_t>(step, bytes.size() - done));
    auto command = passthru(nvme_command(IoKind::read, namespace_id_, (offset + done) / identity_.block_bytes,
                                         length, identity_.block_bytes, bytes.data() + done));
    if (Status read = judge(ioctl(fds_[0], NVME_IOCTL_IO_CMD, &command), path, "cannot be read"); !read)
      return read;
    done += length;
  }
  return {};
}

WholeDevice NvmeDrive::whole(const std::string& path) const {
  return {.path = path,
          .size_bytes = identity_.size_bytes,
          .block_bytes = identity_.block_bytes,
          .block_path = block_path_,
          .read = [this, path](uint64_t offset, std::span<std::byte> bytes) {
            return read(offset, bytes, path);
          }};
}

Status NvmeDrive::write_header(const std::string& path, uint64_t size_bytes) {
  const WholeDevice device = whole(path);
  auto header = make_device_header(device, size_bytes);
  if (!header) return tl::unexpected(header.error());
  header_ = *header;
  const uint32_t unit = device.unit_bytes();
  const Units memory = take_units(unit, unit);
  std::memcpy(memory.get(), &header_, sizeof header_);
  auto command =
      passthru(nvme_command(IoKind::write, namespace_id_, 0, unit, identity_.block_bytes, memory.get()));
  if (Status done = judge(ioctl(fds_[0], NVME_IOCTL_IO_CMD, &command), path, "its header cannot be written");
      !done) {
    return done;
  }
  nvme_passthru_cmd flush{};
  flush.opcode = nvme_opcode_flush;
  flush.nsid = namespace_id_;
  return judge(ioctl(fds_[0], NVME_IOCTL_IO_CMD, &flush), path, "its header cannot be flushed");
}

}  // namespace kvpool
