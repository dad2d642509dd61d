#include "io/cap_device.h"

#include <algorithm>
#include <utility>

#include "base/assert.h"

namespace kvpool {
namespace {

constexpr Nanos bucket_time = std::chrono::milliseconds(10);
constexpr int64_t unit = 1'000'000'000;

}  // namespace

TokenBucket::TokenBucket(std::optional<uint64_t> bytes_per_second, Nanos now) : filled_at_(now) {
  if (!bytes_per_second) return;
  KVPOOL_ASSERT(*bytes_per_second > 0);
  rate_ = static_cast<Tokens>(*bytes_per_second);
  full_ = rate_ * bucket_time.count();
}

TokenBucket::Tokens TokenBucket::level_at(Nanos now) const {
  return std::min(full_, level_ + rate_ * (now - filled_at_).count());
}

TokenBucket::Tokens TokenBucket::needed(uint64_t bytes) const {
  return std::min(full_, static_cast<Tokens>(bytes) * unit);
}

bool TokenBucket::take(uint64_t bytes, Nanos now) {
  if (rate_ == 0) return true;
  level_ = level_at(now);
  filled_at_ = now;
  if (level_ < needed(bytes)) return false;
  level_ -= static_cast<Tokens>(bytes) * unit;
  return true;
}

Nanos TokenBucket::ready_at(uint64_t bytes, Nanos now) const {
  if (rate_ == 0) return now;
  const Tokens missing = needed(bytes) - level_at(now);
  if (missing <= 0) return now;
  return now + Nanos(static_cast<int64_t>((missing + rate_ - 1) / rate_));
}

CapDevice::CapDevice(std::unique_ptr<Device> lower, const CapOptions& options, const Clock& clock)
    : lower_(std::move(lower)),
      clock_(clock),
      limits_(lower_->limits()),
      reads_{TokenBucket(options.read_bytes_per_second, clock.now()),
             BoundedQueue<IoRequest>(limits_.queue_depth_max), false},
      writes_{TokenBucket(options.write_bytes_per_second, clock.now()),
              BoundedQueue<IoRequest>(limits_.queue_depth_max), false} {}

// No more than the lower device takes are under way, but it refuses a write to what it is discarding; the
// tokens must not be gone then.
bool CapDevice::pass(Lane& lane, const IoRequest& request, Nanos now) {
  if (lane.bucket.ready_at(request.length_bytes, now) > now) return false;
  lane.refused = !lower_->submit(request);
  if (lane.refused) return false;
  const bool taken = lane.bucket.take(request.length_bytes, now);
  KVPOOL_ASSERT(taken);
  return true;
}

void CapDevice::release(Lane& lane, Nanos now) {
  while (!lane.held.empty() && pass(lane, lane.held.front(), now)) (void)lane.held.pop();
}

bool CapDevice::submit(const IoRequest& request) {
  if (under_way_ == limits_.queue_depth_max) return false;
  Lane& lane = lane_of(request.kind);
  if (!lane.held.empty() || !pass(lane, request, clock_.now())) {
    if (!lane.held.push(request)) return false;
  }
  ++under_way_;
  return true;
}

size_t CapDevice::poll(std::span<IoCompletion> out) {
  if (!reads_.held.empty() || !writes_.held.empty()) {
    const Nanos now = clock_.now();
    release(reads_, now);
    release(writes_, now);
  }
  const size_t count = lower_->poll(out);
  for (Lane* lane : {&reads_, &writes_}) {
    if (lane->refused) release(*lane, clock_.now());
  }
  under_way_ -= static_cast<uint32_t>(count);
  return count;
}

Nanos CapDevice::next_event_time() const {
  Nanos next = lower_->next_event_time();
  if (reads_.held.empty() && writes_.held.empty()) return next;
  const Nanos now = clock_.now();
  for (const Lane* lane : {&reads_, &writes_}) {
    if (lane->held.empty() || lane->refused) continue;
    next = std::min(next, lane->bucket.ready_at(lane->held.front().length_bytes, now));
  }
  return next;
}

}  // namespace kvpool
