#include "io/spdk/plugin/spdk_device.h"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "base/assert.h"
#include "base/log.h"
#include "io/regions.h"
#include "io/spdk/plugin/spdk_env.h"

namespace kvpool {
namespace {

constexpr uint32_t alignment_bytes_min = 4096;

}  // namespace

SpdkDevice::SpdkDevice(const SpdkDeviceOptions& options)
    : options_(options),
      pace_(options.poll_slack),
      slots_(options.queue_depth, Slot{.device = this}),
      free_slots_(options.queue_depth),
      done_(options.queue_depth),
      refused_(options.queue_depth),
      drive_(options, news_, [this] {
        for (Slot& slot : slots_) {
          if (slot.under_way) end(slot, Errc::io_error);
        }
      }) {}

SpdkDevice::~SpdkDevice() {
  drive_.close();  // nothing is under way any more
  for (const std::span<std::byte>& region : registered_) SpdkEnv::instance().drop_memory(region);
}

Status SpdkDevice::attached() {
  if (Status attached = drive_.attached(); !attached) return attached;
  limits_.size_bytes = drive_.header().size_bytes;
  limits_.alignment_bytes = std::max(alignment_bytes_min, drive_.block_bytes());
  limits_.transfer_bytes_max =
      static_cast<uint32_t>(std::min<uint64_t>(drive_.transfer_bytes_max(), limits_.size_bytes));
  limits_.queue_depth_max = drive_.queue_depth();
  for (uint32_t slot = 0; slot < limits_.queue_depth_max; ++slot) {
    const bool pushed = free_slots_.push(slot);
    KVPOOL_ASSERT(pushed);
  }
  limits_.storage = true;
  return {};
}

void SpdkDevice::offer(std::span<std::byte> memory) {
  constexpr uintptr_t page_bytes = 2U << 20;
  const auto address = reinterpret_cast<uintptr_t>(memory.data());
  const size_t before = (page_bytes - address % page_bytes) % page_bytes;
  if (before >= memory.size()) return;
  const size_t bytes = (memory.size() - before) / page_bytes * page_bytes;
  if (bytes > 0) offered_.push_back(memory.subspan(before, bytes));
}

// Only where registering is all that can fail: what the memory holds must stay, so nothing can be tried.
void SpdkDevice::add_offered() {
  if (!drive_.maps_all_memory()) return;
  for (const std::span<std::byte>& memory : offered_) {
    if (const Status added = SpdkEnv::instance().add_memory(memory); !added) {
      log_info("{}: a consumer's own memory is reached by a copy: {}", options_.name, added.error().message);
      continue;
    }
    registered_.push_back(memory);
  }
  std::ranges::sort(registered_, {}, [](const auto& region) { return region.data(); });
}

Status SpdkDevice::start(std::span<const std::span<std::byte>> regions) {
  for (const std::span<std::byte>& region : regions) {
    if (Status added = SpdkEnv::instance().add_memory(region); !added) return added;
    registered_.push_back(region);
  }
  std::ranges::sort(registered_, {}, [](const auto& region) { return region.data(); });
  if (drive_.reaches_all_memory()) return {};
  for (const std::span<std::byte>& region : registered_) {
    if (Status tried = try_memory(region); !tried) return tried;
  }
  add_offered();
  return {};
}

// Registering says nothing of memory that the device cannot reach after all; only a command does. The bytes
// are put back.
Status SpdkDevice::try_memory(std::span<std::byte> region) {
  if (region.size() < limits_.alignment_bytes) return {};
  const std::span<std::byte> page = region.first(limits_.alignment_bytes);
  const std::vector<std::byte> before(page.begin(), page.end());
  const IoRequest request{
      .kind = IoKind::read, .length_bytes = static_cast<uint32_t>(page.size()), .buffer = page.data()};
  const bool submitted = submit(request);
  KVPOOL_ASSERT(submitted);
  IoCompletion done;
  while (poll(std::span(&done, 1)) == 0) {
    pollfd readable{.fd = wait_fd(), .events = POLLIN, .revents = 0};
    constexpr int look_again_ms = 1;
    ::poll(&readable, 1, look_again_ms);
  }
  std::ranges::copy(before, page.begin());
  if (done.code == Errc::ok) return {};
  return fail(
      Errc::unsupported,
      fmt::format("{}: '{}' cannot read into pool memory; it wants huge pages (vm.nr_hugepages), or an "
                  "IOMMU in the machine",
                  options_.name, options_.address));
}

bool SpdkDevice::reaches(const std::byte* buffer, uint32_t length_bytes) const {
  return drive_.reaches_all_memory() || region_around(registered_, buffer, length_bytes) >= 0;
}

bool SpdkDevice::submit(const IoRequest& request) {
  KVPOOL_ASSERT(request.length_bytes > 0 && request.length_bytes <= limits_.transfer_bytes_max &&
                request.offset.value <= limits_.size_bytes - request.length_bytes);
  KVPOOL_ASSERT(request.offset.value % limits_.alignment_bytes == 0 &&
                request.length_bytes % limits_.alignment_bytes == 0 && request.buffer != nullptr);
  if (free_slots_.empty()) return false;
  const uint32_t number = free_slots_.front();
  Slot& slot = slots_[number];
  slot.tag = request.tag;
  slot.length_bytes = request.length_bytes;
  slot.submitted_at = clock_.now();
  slot.code = Errc::io_error;
  slot.under_way = online();
  const int error = slot.under_way ? send(request, slot) : -ENXIO;
  if (error != 0) slot.under_way = false;
  // With nothing under way nothing would make room.
  if (error == -ENOMEM && pace_.in_flight() > 0) return false;
  free_slots_.pop();
  if (error == 0) {
    pace_.submitted(slot.submitted_at);
    return true;
  }
  if (error != -ENXIO && !failure_logged_) log_failure(std::generic_category().message(-error));
  const bool refused = refused_.push(number);
  KVPOOL_ASSERT(refused);
  return true;
}

int SpdkDevice::send(const IoRequest& request, Slot& slot) {
  const uint32_t block_bytes = drive_.block_bytes();
  const uint64_t first = (pool_data_offset_bytes + request.offset.value) / block_bytes;
  const uint32_t blocks = request.length_bytes / block_bytes;
  if (request.kind == IoKind::read) {
    return spdk_nvme_ns_cmd_read(drive_.ns(), drive_.queue_pair(), request.buffer, first, blocks, on_done,
                                 &slot, 0);
  }
  return spdk_nvme_ns_cmd_write(drive_.ns(), drive_.queue_pair(), request.buffer, first, blocks, on_done,
                                &slot, 0);
}

void SpdkDevice::on_done(void* context, const spdk_nvme_cpl* completion) {
  auto* const slot = static_cast<Slot*>(context);
  SpdkDevice& device = *slot->device;
  const bool failed = spdk_nvme_cpl_is_error(completion);
  if (failed && !device.failure_logged_ && device.online()) {
    device.log_failure(fmt::format("status {:#x}/{:#x} ({})", completion->status.sct, completion->status.sc,
                                   spdk_nvme_cpl_get_status_string(&completion->status)));
  }
  device.end(*slot, failed ? Errc::io_error : Errc::ok);
}

void SpdkDevice::end(Slot& slot, Errc code) {
  slot.code = code;
  slot.under_way = false;
  const bool pushed = done_.push(static_cast<uint32_t>(&slot - slots_.data()));
  KVPOOL_ASSERT(pushed);
}

size_t SpdkDevice::poll(std::span<IoCompletion> out) {
  const Nanos now = clock_.now();
  news_.hear();
  const bool was_up = online();
  const int32_t polled =
      was_up && pace_.in_flight() > 0 ? spdk_nvme_qpair_process_completions(drive_.queue_pair(), 0) : 0;
  size_t count = 0;
  const auto take = [&](BoundedQueue<uint32_t>& from, bool was_sent) {
    while (count < out.size() && !from.empty()) {
      const Slot& slot = slots_[from.front()];
      if (was_sent) pace_.completed(slot.submitted_at, now);
      out[count++] = {
          .tag = slot.tag, .bytes = slot.code == Errc::ok ? slot.length_bytes : 0, .code = slot.code};
      const bool freed = free_slots_.push(from.pop());
      KVPOOL_ASSERT(freed);
    }
  };
  take(refused_, false);
  // What was lost is handed on when its buffers are nobody else's any more; what came before that, now.
  if (drive_.state() != SpdkDrive::State::lost) take(done_, true);
  if (was_up) look_after(polled);
  pace_.looked(now);
  return count;
}

void SpdkDevice::look_after(int32_t polled) {
  if (const char* const why = drive_.failure(); why != nullptr) {
    drive_.give_back(why);
  } else if (polled < 0) {
    drive_.give_back(std::generic_category().message(-polled));
  } else if (!spdk_nvme_qpair_is_connected(drive_.queue_pair())) {
    drive_.give_back("the connection broke");
  }
}

Nanos SpdkDevice::next_event_time() const {
  if (!refused_.empty()) return Nanos{0};
  if (drive_.state() == SpdkDrive::State::lost) return never;  // news will come
  return done_.empty() ? pace_.next_look() : Nanos{0};
}

void SpdkDevice::log_failure(std::string_view what) {
  if (failure_logged_) return;
  failure_logged_ = true;
  log_error("{}: a request failed: {}. Later failures are only counted", options_.name, what);
}

}  // namespace kvpool
