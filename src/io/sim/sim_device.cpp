#include "io/sim/sim_device.h"

#include <algorithm>
#include <cstring>

#include "base/assert.h"

namespace kvpool {
namespace {

// Memory lies on huge pages, and so is aligned for any drive that reads into it.
constexpr size_t memory_alignment_bytes = 64 << 10;

constexpr auto later = [](const auto& a, const auto& b) { return a.due > b.due; };

}  // namespace

SimDevice::SimDevice(const Clock& clock, SimDeviceOptions options)
    : clock_(clock), options_(std::move(options)), prng_(options_.seed) {
  if (options_.keeps_bytes || options_.in_place) {
    memory_.resize(options_.size_bytes + memory_alignment_bytes);
    const size_t beyond = reinterpret_cast<uintptr_t>(memory_.data()) % memory_alignment_bytes;
    bytes_ = std::span(memory_).subspan(memory_alignment_bytes - beyond, options_.size_bytes);
  }
  flying_.reserve(options_.queue_depth_max);
}

DeviceLimits SimDevice::limits() const {
  return {.size_bytes = options_.size_bytes,
          .alignment_bytes = options_.alignment_bytes,
          .transfer_bytes_max = options_.transfer_bytes_max,
          .queue_depth_max = options_.queue_depth_max,
          .in_place = options_.in_place,
          .storage = options_.storage,
          .discards = options_.discards,
          .keeps_bytes = options_.keeps_bytes || options_.in_place};
}

bool SimDevice::submit(const IoRequest& request) {
  if (flying_.size() == options_.queue_depth_max) return false;
  KVPOOL_ASSERT(request.offset.value % options_.alignment_bytes == 0);
  KVPOOL_ASSERT(options_.in_place ||
                reinterpret_cast<uintptr_t>(request.buffer) % options_.alignment_bytes == 0);
  KVPOOL_ASSERT(request.length_bytes % options_.alignment_bytes == 0 && request.length_bytes > 0);
  KVPOOL_ASSERT(request.length_bytes <= options_.transfer_bytes_max);
  KVPOOL_ASSERT(request.offset.value + request.length_bytes <= options_.size_bytes);
  if (request.kind == IoKind::write && !discards_.admit_write(request.offset, request.length_bytes)) {
    return false;
  }
  const double rate =
      request.kind == IoKind::read ? options_.read_bytes_per_second : options_.write_bytes_per_second;
  const auto pipe_time = std::chrono::duration_cast<Nanos>(
      std::chrono::duration<double>(static_cast<double>(request.length_bytes) / rate));
  pipe_free_at_ = std::max(pipe_free_at_, clock_.now()) + pipe_time;
  const auto stretch =
      static_cast<Nanos::rep>(static_cast<double>(options_.latency.count()) * options_.jitter * prng_.unit());
  flying_.push_back({request, pipe_free_at_ + options_.latency + Nanos(stretch)});
  std::ranges::push_heap(flying_, later);
  return true;
}

bool SimDevice::discard(ByteOffset offset, uint64_t length_bytes) {
  KVPOOL_ASSERT(options_.discards && offset.value % options_.alignment_bytes == 0 &&
                length_bytes % options_.alignment_bytes == 0);
  const ByteRange dropped{offset.value, length_bytes};
  for (const Flying& each : flying_) {
    KVPOOL_ASSERT(!dropped.overlaps({each.request.offset.value, each.request.length_bytes}));
  }
  return discards_.add(offset, length_bytes);
}

void SimDevice::drop_discarded() {
  if (discarded_at_ <= clock_.now()) {
    for (const ByteRange& range : discards_.under_way()) {
      if (options_.keeps_bytes) std::ranges::fill(bytes_.subspan(range.offset, range.length_bytes), garbage);
    }
    discards_.finish();
    discarded_at_ = never;
  }
  if (!discards_.can_send()) return;
  (void)discards_.send();
  discarded_at_ = clock_.now() + options_.discard_latency;
}

size_t SimDevice::poll(std::span<IoCompletion> out) {
  drop_discarded();
  size_t count = 0;
  while (count < out.size() && !flying_.empty() && flying_.front().due <= clock_.now()) {
    std::ranges::pop_heap(flying_, later);
    complete(flying_.back().request, out[count++]);
    flying_.pop_back();
  }
  return count;
}

void SimDevice::complete(const IoRequest& request, IoCompletion& out) {
  out = {.tag = request.tag, .in_place = nullptr, .bytes = request.length_bytes, .code = Errc::ok};
  if (options_.in_place) {
    out.in_place = bytes_.data() + request.offset.value;
  } else if (options_.keeps_bytes) {
    std::byte* stored = bytes_.data() + request.offset.value;
    if (request.kind == IoKind::read) {
      std::memcpy(request.buffer, stored, request.length_bytes);
    } else {
      std::memcpy(stored, request.buffer, request.length_bytes);
    }
  }
}

Nanos SimDevice::next_event_time() const {
  if (discards_.can_send()) return Nanos{0};
  return flying_.empty() ? discarded_at_ : std::min(discarded_at_, flying_.front().due);
}

}  // namespace kvpool
