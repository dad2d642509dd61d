#include "io/nvme/nvme_device.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/utsname.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <optional>
#include <system_error>
#include <utility>
#include <vector>

#include "base/assert.h"
#include "base/log.h"
#include "io/nvme/command.h"

namespace kvpool {
namespace {

constexpr uint32_t alignment_bytes_min = 4096;

// Linux 6.1 follows a wild pointer where a process ends with polled commands under way; 6.12 is the oldest on
// which they were tried and work.
bool kernel_polls_safely() {
  utsname about{};
  unsigned major = 0;
  unsigned minor = 0;
  if (uname(&about) != 0 || sscanf(about.release, "%u.%u", &major, &minor) != 2) return false;
  return std::pair(major, minor) >= std::pair(6U, 12U);
}

// How completions are looked for, or nothing where they are announced.
std::optional<double> poll_slack(const NvmeDeviceOptions& options, const NvmeDrive& drive) {
  if (!options.polled || !drive.has_poll_queues()) return {};
  if (kernel_polls_safely()) return options.poll_slack;
  log_info("{}: the drive's poll queues are not used: that takes Linux 6.12", options.name);
  return {};
}

}  // namespace

Result<std::unique_ptr<NvmeDevice>> NvmeDevice::open(const NvmeDeviceOptions& options) {
  auto drive = NvmeDrive::open(options.path, options.size_bytes, options.discard);
  if (!drive) return tl::unexpected(drive.error());
  std::unique_ptr<NvmeDevice> device(new NvmeDevice(options, std::move(*drive)));
  if (Status made =
          device->ring_.make(IORING_SETUP_SQE128 | IORING_SETUP_CQE32, poll_slack(options, device->drive_));
      !made) {
    return tl::unexpected(made.error());
  }
  return device;
}

// One request more than are asked for: the discard.
NvmeDevice::NvmeDevice(const NvmeDeviceOptions& options, NvmeDrive drive)
    : name_(options.name),
      drive_(std::move(drive)),
      discards_(drive_.discard_limits()),
      discarding_(std::make_unique<NvmeRange[]>(drive_.discard_limits().ranges_max)),
      ring_(options.name, options.queue_depth + (options.discard ? 1 : 0)) {
  limits_.size_bytes = drive_.header().size_bytes;
  limits_.alignment_bytes = std::max(alignment_bytes_min, drive_.identity().block_bytes);
  limits_.transfer_bytes_max =
      static_cast<uint32_t>(std::min<uint64_t>(drive_.transfer_bytes_max(), limits_.size_bytes));
  limits_.queue_depth_max = options.queue_depth;
  limits_.storage = true;
  limits_.discards = options.discard;
}

NvmeDevice::~NvmeDevice() {
  if (ring_.is_idle()) return;
  // The next owner of the drive must not meet writes of ours that are still on their way.
  drive_.leave_lock_to_kernel();
  // Nor may the drive find other numbers where the ranges of a discard stood: they are left behind.
  if (discards_.is_under_way()) (void)discarding_.release();
}

Status NvmeDevice::start(std::span<const std::span<std::byte>> regions) {
  if (Status started = ring_.start(drive_.fds(), regions); !started) return started;
  const auto takes = [this](std::span<std::byte> piece) {
    return piece.size() < limits_.alignment_bytes || takes_registered(piece.first(limits_.alignment_bytes));
  };
  if (std::ranges::all_of(ring_.registered_pieces(), takes)) return {};
  ring_.forget_registered();
  log_info(
      "{}: this kernel takes no NVMe commands on registered memory of small pages; each request costs a "
      "little "
      "more. Huge pages or a later kernel do without",
      name_);
  return {};
}

// Kernels up to 6.x count all pages of a registered piece against what one command may have, and refuse. So
// one command is tried at each piece's beginning, where that is worst. The page is put back.
bool NvmeDevice::takes_registered(std::span<std::byte> page) {
  const std::vector<std::byte> before(page.begin(), page.end());
  const IoRequest request{
      .kind = IoKind::read, .length_bytes = static_cast<uint32_t>(page.size()), .buffer = page.data()};
  const bool submitted = submit(request);
  KVPOOL_ASSERT(submitted);
  bool taken = false;
  // The kernel ends every command by its own deadline.
  while (!ring_.is_idle()) {
    IoCompletion done;
    const auto judge_trial = [&](int32_t result, uint32_t /*bytes*/, IoCompletion&) {
      taken = result != -EINVAL;
      return true;
    };
    if (ring_.poll(std::span(&done, 1), judge_trial) > 0) break;
    pollfd readable{.fd = wait_fd(), .events = POLLIN, .revents = 0};
    constexpr int look_again_ms = 10;
    ::poll(&readable, 1, look_again_ms);
  }
  --under_way_;
  std::ranges::copy(before, page.begin());
  return taken;
}

bool NvmeDevice::submit(const IoRequest& request) {
  KVPOOL_ASSERT(request.length_bytes > 0 && request.length_bytes <= limits_.transfer_bytes_max &&
                request.offset.value <= limits_.size_bytes - request.length_bytes);
  KVPOOL_ASSERT(request.offset.value % limits_.alignment_bytes == 0 &&
                request.length_bytes % limits_.alignment_bytes == 0 && request.buffer != nullptr);
  if (under_way_ == limits_.queue_depth_max) return false;
  if (request.kind == IoKind::write && !discards_.admit_write(request.offset, request.length_bytes)) {
    return false;
  }
  if (!prepare(request, nvme_command(request.kind, drive_.namespace_id(), block_at(request.offset.value),
                                     request.length_bytes, drive_.identity().block_bytes, request.buffer))) {
    return false;
  }
  ++under_way_;
  return true;
}

bool NvmeDevice::prepare(const IoRequest& request, const nvme_uring_cmd& command) {
  return ring_.submit(request, [&](io_uring_sqe& sqe, int index) {
    io_uring_prep_rw(IORING_OP_URING_CMD, &sqe, 0, nullptr, 0, 0);
    sqe.cmd_op = NVME_URING_CMD_IO;
    std::memcpy(sqe.cmd, &command, sizeof command);
    if (index < 0) return;
    sqe.uring_cmd_flags = IORING_URING_CMD_FIXED;
    sqe.buf_index = static_cast<uint16_t>(index);
  });
}

bool NvmeDevice::discard(ByteOffset offset, uint64_t length_bytes) {
  KVPOOL_ASSERT(limits_.discards && offset.value % limits_.alignment_bytes == 0 &&
                length_bytes % limits_.alignment_bytes == 0 &&
                offset.value + length_bytes <= limits_.size_bytes);
  return !discard_refused_ && discards_.add(offset, length_bytes);
}

void NvmeDevice::send_discards() {
  size_t count = 0;
  for (const ByteRange& range : discards_.send()) {
    discarding_[count++] = {
        .blocks = static_cast<uint32_t>(range.length_bytes / drive_.identity().block_bytes),
        .first_block = block_at(range.offset)};
  }
  const bool prepared = prepare(
      {.length_bytes = 0}, nvme_discard_command(drive_.namespace_id(), std::span(discarding_.get(), count)));
  KVPOOL_ASSERT(prepared);  // it has a slot of its own
}

size_t NvmeDevice::poll(std::span<IoCompletion> out) {
  if (wants_discard()) send_discards();
  const size_t count =
      ring_.poll(out, [this](int32_t result, uint32_t length_bytes, IoCompletion& completion) {
        return judge(result, length_bytes, completion);
      });
  under_way_ -= static_cast<uint32_t>(count);
  return count;
}

bool NvmeDevice::judge(int32_t result, uint32_t length_bytes, IoCompletion& completion) {
  // A positive result is the drive's own status, a negative one the kernel's.
  const auto text = [result] {
    return result > 0 ? nvme_status_text(static_cast<uint32_t>(result))
                      : std::generic_category().message(-result);
  };
  if (length_bytes == 0) {  // a discard
    discards_.finish();
    if (result == 0) return false;
    discard_refused_ = true;
    log_warn("{}: a discard failed: {}. No more are sent", name_, text());
    return false;
  }
  if (result == 0) {
    completion.bytes = length_bytes;
    return true;
  }
  completion.code = Errc::io_error;
  ring_.log_failure(text());
  return true;
}

}  // namespace kvpool
