#include "io/file/file_device.h"

#include <fmt/format.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>
#include <utility>

#include "base/assert.h"
#include "base/log.h"

namespace kvpool {
namespace {

constexpr uint64_t page_bytes = 4096;
constexpr uint32_t transfer_bytes_max = 64U << 20;
// The kernel's bound on one registered buffer.
constexpr uint64_t registered_bytes_max = 1ULL << 30;
constexpr size_t reap_max = 64;

// From the best to what a kernel of 2020 knows. COOP_TASKRUN: completions do not interrupt this thread.
// TASKRUN_FLAG: asking for them costs a system call only when there is something. DEFER_TASKRUN is left out:
// with it a sleeper on the ring's descriptor is not woken (seen on Linux 6.18), and at these sizes of
// request it would save nothing.
constexpr std::array<unsigned, 3> ring_flags = {
    IORING_SETUP_R_DISABLED | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_SINGLE_ISSUER |
        IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
    IORING_SETUP_R_DISABLED | IORING_SETUP_SUBMIT_ALL,
    IORING_SETUP_R_DISABLED,
};

std::string error_text(int error) { return std::generic_category().message(error); }

}  // namespace

Result<std::unique_ptr<FileDevice>> FileDevice::open(const FileDeviceOptions& options) {
  const uint64_t size_bytes = options.size_bytes / page_bytes * page_bytes;
  if (size_bytes == 0) {
    return fail(Errc::invalid_argument, fmt::format("{}: a size of at least 4 KiB is needed", options.path));
  }
  if (options.queue_depth == 0 || options.queue_depth > 4096) {
    return fail(Errc::invalid_argument, fmt::format("{}: a queue depth of {}; 1 to 4096 are allowed",
                                                    options.path, options.queue_depth));
  }
  auto file = PoolFile::open(options.path, size_bytes);
  if (!file) return tl::unexpected(file.error());
  std::unique_ptr<FileDevice> device(new FileDevice(options, std::move(*file)));
  if (Status made = device->make_ring(); !made) return tl::unexpected(made.error());
  if (!device->direct()) {
    log_warn("{}: the file system of {} has no O_DIRECT; it is read and written through the page cache",
             options.name, options.path);
  }
  return device;
}

FileDevice::FileDevice(const FileDeviceOptions& options, PoolFile file)
    : name_(options.name),
      file_(std::move(file)),
      slots_(options.queue_depth),
      free_slots_(options.queue_depth) {
  limits_.size_bytes = file_.header().size_bytes;
  limits_.alignment_bytes = file_.header().alignment_bytes;
  limits_.transfer_bytes_max =
      static_cast<uint32_t>(std::min<uint64_t>(transfer_bytes_max, limits_.size_bytes));
  limits_.queue_depth_max = options.queue_depth;
  limits_.storage = true;
  for (uint32_t slot = 0; slot < options.queue_depth; ++slot) {
    const bool pushed = free_slots_.push(slot);
    KVPOOL_ASSERT(pushed);
  }
}

FileDevice::~FileDevice() {
  // The next owner of the file must not meet writes of ours that are still on their way.
  if (!free_slots_.full()) file_.leave_lock_to_kernel();
  if (ring_made_) io_uring_queue_exit(&ring_);
}

Status FileDevice::make_ring() {
  int error = 0;
  for (const unsigned flags : ring_flags) {
    io_uring_params params{};
    params.flags = flags;
    error = -io_uring_queue_init_params(limits_.queue_depth_max, &ring_, &params);
    ring_made_ = error == 0;
    if (ring_made_) return {};
    if (error != EINVAL) break;
  }
  return fail(
      Errc::unsupported,
      fmt::format("{}: io_uring cannot be used ({}); look at the sysctl kernel.io_uring_disabled, at a "
                  "container's seccomp profile and at ulimit -l",
                  name_, error_text(error)));
}

Status FileDevice::start(std::span<const std::span<std::byte>> regions) {
  // By hand: liburing 2.3 declares io_uring_enable_rings() but its shared object lacks it.
  if (syscall(SYS_io_uring_register, ring_.ring_fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0) != 0) {
    return fail_errno(errno, fmt::format("{}: io_uring cannot be started", name_));
  }
  const int fd = file_.fd();
  if (const int error = -io_uring_register_files(&ring_, &fd, 1); error != 0) {
    return fail_errno(error, fmt::format("{}: its file cannot be registered", name_));
  }
  register_regions(regions);
  return {};
}

// Registered memory is pinned and mapped once instead of in every request. Without it all works, only slower.
void FileDevice::register_regions(std::span<const std::span<std::byte>> regions) {
  for (const std::span<std::byte>& region : regions) {
    for (size_t at = 0; at < region.size(); at += registered_bytes_max) {
      registered_.push_back(region.subspan(at, std::min(registered_bytes_max, region.size() - at)));
    }
  }
  if (registered_.empty()) return;
  std::sort(registered_.begin(), registered_.end(),
            [](const auto& a, const auto& b) { return a.data() < b.data(); });
  std::vector<iovec> buffers;
  for (const std::span<std::byte>& piece : registered_) buffers.push_back({piece.data(), piece.size()});
  const int error = -io_uring_register_buffers(&ring_, buffers.data(), static_cast<unsigned>(buffers.size()));
  if (error == 0) return;
  registered_.clear();
  log_info(
      "{}: its buffers cannot be registered with io_uring ({}); each request costs a little more. "
      "ulimit -l (locked memory) may be too small",
      name_, error_text(error));
}

// -1: not wholly in one registered buffer.
int FileDevice::registered_index(const std::byte* buffer, uint32_t length_bytes) const {
  auto after = std::upper_bound(registered_.begin(), registered_.end(), buffer,
                                [](const std::byte* b, const auto& piece) { return b < piece.data(); });
  if (after == registered_.begin()) return -1;
  const std::span<std::byte>& piece = *--after;
  if (length_bytes > piece.size() || buffer > piece.data() + (piece.size() - length_bytes)) return -1;
  return static_cast<int>(after - registered_.begin());
}

bool FileDevice::submit(const IoRequest& request) {
  KVPOOL_ASSERT(request.length_bytes > 0 && request.length_bytes <= limits_.transfer_bytes_max &&
                request.offset.value <= limits_.size_bytes - request.length_bytes);
  // The kernel would take some unaligned requests, and carry them out through the page cache.
  KVPOOL_ASSERT(request.offset.value % limits_.alignment_bytes == 0 &&
                request.length_bytes % limits_.alignment_bytes == 0 && request.buffer != nullptr);
  if (free_slots_.empty()) return false;
  io_uring_sqe* const sqe = io_uring_get_sqe(&ring_);
  if (sqe == nullptr) return false;
  const uint32_t slot = free_slots_.pop();
  slots_[slot] = {request.tag, request.length_bytes};

  const int index = registered_index(request.buffer, request.length_bytes);
  const uint64_t offset = pool_data_offset_bytes + request.offset.value;
  const bool is_read = request.kind == IoKind::read;
  if (is_read && index >= 0) {
    io_uring_prep_read_fixed(sqe, 0, request.buffer, request.length_bytes, offset, index);
  } else if (is_read) {
    io_uring_prep_read(sqe, 0, request.buffer, request.length_bytes, offset);
  } else if (index >= 0) {
    io_uring_prep_write_fixed(sqe, 0, request.buffer, request.length_bytes, offset, index);
  } else {
    io_uring_prep_write(sqe, 0, request.buffer, request.length_bytes, offset);
  }
  sqe->flags |= IOSQE_FIXED_FILE;
  io_uring_sqe_set_data64(sqe, slot);
  return true;
}

void FileDevice::send() {
  // Fetches completions too, so that a busy poll() is one system call.
  const int sent = io_uring_submit_and_get_events(&ring_);
  // The kernel is short of something for the moment: the requests stay in the ring, and next_event_time()
  // asks for another poll(). Anything else would be our own mistake.
  KVPOOL_ASSERT(sent >= 0 || sent == -EAGAIN || sent == -EBUSY || sent == -EINTR || sent == -ENOMEM);
}

size_t FileDevice::poll(std::span<IoCompletion> out) {
  if (io_uring_sq_ready(&ring_) > 0) send();
  size_t count = 0;
  while (count < out.size() && !free_slots_.full()) {
    std::array<io_uring_cqe*, reap_max> cqes;
    const auto wanted = static_cast<unsigned>(std::min(out.size() - count, cqes.size()));
    const unsigned came = io_uring_peek_batch_cqe(&ring_, cqes.data(), wanted);
    for (unsigned i = 0; i < came; ++i) out[count++] = finish(*cqes[i]);
    io_uring_cq_advance(&ring_, came);
    if (came < wanted) break;
  }
  return count;
}

IoCompletion FileDevice::finish(const io_uring_cqe& cqe) {
  const auto number = static_cast<uint32_t>(cqe.user_data);
  KVPOOL_ASSERT(cqe.user_data < slots_.size());
  const Slot slot = slots_[number];
  const bool freed = free_slots_.push(number);
  KVPOOL_ASSERT(freed);

  IoCompletion completion;
  completion.tag = slot.tag;
  if (cqe.res < 0) {
    completion.code = Errc::io_error;
  } else {
    completion.bytes = static_cast<uint32_t>(cqe.res);
    if (completion.bytes != slot.length_bytes) completion.code = Errc::short_io;
  }
  if (completion.code != Errc::ok && !failure_logged_) {
    failure_logged_ = true;
    log_error("{}: a request failed: {}. Later failures are only counted", name_,
              cqe.res < 0 ? error_text(-cqe.res) : "fewer bytes moved than asked");
  }
  return completion;
}

Nanos FileDevice::next_event_time() const { return io_uring_sq_ready(&ring_) > 0 ? Nanos{0} : never; }

}  // namespace kvpool
