#include "io/uring/ring.h"

#include <fmt/format.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "base/log.h"
#include "io/regions.h"

namespace kvpool {
namespace {

// The kernel's bound on one registered buffer.
constexpr uint64_t registered_bytes_max = 1ULL << 30;

// From the best to what a kernel of 2020 knows. COOP_TASKRUN: completions do not interrupt this thread.
// TASKRUN_FLAG: asking for them costs a system call only when there is something. DEFER_TASKRUN is left out:
// with it a sleeper on the ring's descriptor is not woken (seen on Linux 6.18), and at these sizes of
// request it would save nothing.
constexpr std::array<unsigned, 3> usual_flags = {
    IORING_SETUP_R_DISABLED | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_SINGLE_ISSUER |
        IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
    IORING_SETUP_R_DISABLED | IORING_SETUP_SUBMIT_ALL,
    IORING_SETUP_R_DISABLED,
};

std::string error_text(int error) { return std::generic_category().message(error); }

}  // namespace

Ring::Ring(std::string name, uint32_t queue_depth)
    : name_(std::move(name)), slots_(queue_depth), free_slots_(queue_depth) {
  for (uint32_t slot = 0; slot < queue_depth; ++slot) {
    const bool pushed = free_slots_.push(slot);
    KVPOOL_ASSERT(pushed);
  }
}

Ring::~Ring() {
  if (made_) io_uring_queue_exit(&ring_);
}

Status Ring::make(unsigned flags, std::optional<double> poll_slack) {
  if (poll_slack) {
    flags |= IORING_SETUP_IOPOLL;
    pace_.emplace(*poll_slack);
  }
  int error = 0;
  for (const unsigned usual : usual_flags) {
    io_uring_params params{};
    params.flags = usual | flags;
    error = -io_uring_queue_init_params(queue_depth(), &ring_, &params);
    made_ = error == 0;
    if (made_) return {};
    if (error != EINVAL) break;
  }
  return fail(
      Errc::unsupported,
      fmt::format("{}: io_uring cannot be used ({}); look at the sysctl kernel.io_uring_disabled, at a "
                  "container's seccomp profile, at ulimit -l and at the kernel's age",
                  name_, error_text(error)));
}

Status Ring::start(std::span<const int> fds, std::span<const std::span<std::byte>> regions) {
  // By hand: liburing 2.3 declares io_uring_enable_rings() but its shared object lacks it.
  if (syscall(SYS_io_uring_register, ring_.ring_fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0) != 0) {
    return fail_errno(errno, fmt::format("{}: io_uring cannot be started", name_));
  }
  if (const int error = -io_uring_register_files(&ring_, fds.data(), static_cast<unsigned>(fds.size()));
      error != 0) {
    return fail_errno(error, fmt::format("{}: its file cannot be registered", name_));
  }
  register_regions(regions);
  return {};
}

// Registered memory is pinned and mapped once instead of in every request.
void Ring::register_regions(std::span<const std::span<std::byte>> regions) {
  if (!offered_.empty()) {
    std::vector<std::span<std::byte>> wanted(regions.begin(), regions.end());
    wanted.insert(wanted.end(), offered_.begin(), offered_.end());
    const int error = register_pieces(wanted);
    if (error == 0) return;
    log_info(
        "{}: a consumer's own memory cannot be registered with io_uring ({}); each request on it costs a "
        "little more. ulimit -l (locked memory) may be too small",
        name_, error_text(error));
  }
  const int error = register_pieces(regions);
  if (error == 0) return;
  log_info(
      "{}: its buffers cannot be registered with io_uring ({}); each request costs a little more. "
      "ulimit -l (locked memory) may be too small",
      name_, error_text(error));
}

// 0, or an errno.
int Ring::register_pieces(std::span<const std::span<std::byte>> regions) {
  registered_.clear();
  for (const std::span<std::byte>& region : regions) {
    for (size_t at = 0; at < region.size(); at += registered_bytes_max) {
      registered_.push_back(region.subspan(at, std::min(registered_bytes_max, region.size() - at)));
    }
  }
  if (registered_.empty()) return 0;
  std::sort(registered_.begin(), registered_.end(),
            [](const auto& a, const auto& b) { return a.data() < b.data(); });
  std::vector<iovec> buffers;
  for (const std::span<std::byte>& piece : registered_) buffers.push_back({piece.data(), piece.size()});
  const int error = -io_uring_register_buffers(&ring_, buffers.data(), static_cast<unsigned>(buffers.size()));
  if (error != 0) registered_.clear();
  return error;
}

void Ring::forget_registered() {
  registered_.clear();
  // Could it not be unregistered, it would stay pinned, and no more.
  [[maybe_unused]] const int ignored = io_uring_unregister_buffers(&ring_);
}

int Ring::registered_index(const std::byte* buffer, uint32_t length_bytes) const {
  return static_cast<int>(region_around(registered_, buffer, length_bytes));
}

void Ring::send() {
  // Fetches completions too, so that a busy poll() is one system call.
  const int sent = io_uring_submit_and_get_events(&ring_);
  // The kernel is short of something for the moment: the requests stay in the ring, and next_event_time()
  // asks for another poll(). Anything else would be our own mistake.
  KVPOOL_ASSERT(sent >= 0 || sent == -EAGAIN || sent == -EBUSY || sent == -EINTR || sent == -ENOMEM);
}

Ring::Slot Ring::free_slot(uint64_t number) {
  KVPOOL_ASSERT(number < slots_.size());
  const bool freed = free_slots_.push(static_cast<uint32_t>(number));
  KVPOOL_ASSERT(freed);
  return slots_[number];
}

void Ring::log_failure(std::string_view what) {
  if (failure_logged_) return;
  failure_logged_ = true;
  log_error("{}: a request failed: {}. Later failures are only counted", name_, what);
}

}  // namespace kvpool
