#include "probe/load.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>

#include "base/assert.h"
#include "base/prng.h"
#include "base/units.h"

namespace kvpool {
namespace {

constexpr size_t slots_max = 1 << 16;
constexpr size_t order_max = 1 << 16;
constexpr size_t latencies_max = 4096;

size_t slots_of(const LoadShape& shape) {
  const size_t slots = std::min<size_t>(shape.buffer.size() / shape.size_bytes, slots_max);
  KVPOOL_ASSERT(slots > 0 && shape.range_bytes >= shape.size_bytes && shape.depth > 0);
  return slots;
}

// All places, shuffled; of a very large range a sample.
std::vector<uint32_t> random_order(uint64_t places) {
  Prng prng(places);
  std::vector<uint32_t> order(std::min<uint64_t>(places, order_max));
  if (places > order_max) {
    for (uint32_t& place : order)
      place = static_cast<uint32_t>(prng.below(std::min<uint64_t>(places, UINT32_MAX)));
    return order;
  }
  std::iota(order.begin(), order.end(), 0U);
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[prng.below(i)]);
  return order;
}

double seconds(Nanos time) { return std::chrono::duration<double>(time).count(); }

std::string_view verb(IoKind kind) { return kind == IoKind::read ? "read" : "write"; }

}  // namespace

Load::Load(Device& device, Transfer& transfer, uint32_t tag, const LoadShape& shape)
    : device_(&device),
      transfer_(&transfer),
      tag_(static_cast<uint64_t>(tag) << 32),
      shape_(shape),
      in_place_(device.limits().in_place),
      slots_(slots_of(shape)),
      free_(slots_.size()),
      uncopied_(slots_.size()) {
  for (uint32_t slot = 0; slot < slots_.size(); ++slot) {
    const bool pushed = free_.push(slot);
    KVPOOL_ASSERT(pushed);
  }
  if (shape.random) order_ = random_order(shape.range_bytes / shape.size_bytes);
  latencies_.reserve(latencies_max);
}

void Load::begin(Nanos now, Nanos stop_at) {
  began_at_ = moved_at_ = mark_at_ = last_at_ = now;
  stop_at_ = stop_at;
}

uint64_t Load::next_offset() const {
  const uint64_t place = order_.empty() ? submitted_ % (shape_.range_bytes / shape_.size_bytes)
                                        : order_[submitted_ % order_.size()];
  return place * shape_.size_bytes;
}

bool Load::submit_more(Nanos now) {
  bool any = false;
  while (now < stop_at_ && status_ && in_flight_ < window_ && !free_.empty()) {
    const uint32_t slot = free_.front();
    IoRequest request;
    request.kind = shape_.kind;
    request.offset = ByteOffset(next_offset());
    request.length_bytes = shape_.size_bytes;
    if (!in_place_) request.buffer = shape_.buffer.data() + static_cast<size_t>(slot) * shape_.size_bytes;
    request.tag = slot;
    if (!device_->submit(request)) break;
    (void)free_.pop();
    slots_[slot].submitted_at = now;
    if (in_flight_ == 0) moved_at_ = now;
    depth_reached_ = std::max(depth_reached_, ++in_flight_);
    ++submitted_;
    any = true;
  }
  return any;
}

bool Load::step(Nanos now) {
  bool any = false;
  std::array<IoCompletion, 64> completions;
  const size_t count = device_->poll(completions);
  for (size_t i = 0; i < count; ++i) arrived(completions[i], now);
  while (!uncopied_.empty() && copy(uncopied_.front())) {
    (void)uncopied_.pop();
    any = true;
  }
  return submit_more(now) || any || count > 0;
}

void Load::arrived(const IoCompletion& completion, Nanos now) {
  const auto slot = static_cast<uint32_t>(completion.tag);
  KVPOOL_ASSERT(completion.tag < slots_.size());
  const bool whole = completion.code == Errc::ok && completion.bytes == shape_.size_bytes;
  if (!whole) {
    fail_request(completion.code == Errc::ok ? Errc::short_io : completion.code, now);
  } else if (in_place_) {
    slots_[slot].in_place = completion.in_place;
    const bool pushed = uncopied_.push(slot);
    KVPOOL_ASSERT(pushed);
    moved_at_ = now;
    return;
  }
  finish(slot, now);
}

bool Load::copy(uint32_t slot) {
  std::byte* const piece = shape_.buffer.data() + static_cast<size_t>(slot) * shape_.size_bytes;
  std::byte* const stored = slots_[slot].in_place;
  TransferJob job;
  job.source = shape_.kind == IoKind::read ? stored : piece;
  job.destination = shape_.kind == IoKind::read ? piece : stored;
  job.length_bytes = shape_.size_bytes;
  job.tag = tag_ | slot;
  return transfer_->submit(job);
}

void Load::copied(const TransferCompletion& completion, Nanos now) {
  const auto slot = static_cast<uint32_t>(completion.tag);
  KVPOOL_ASSERT(slot < slots_.size());
  if (completion.code != Errc::ok) fail_request(completion.code, now);
  finish(slot, now);
}

void Load::fail_request(Errc code, Nanos now) {
  if (status_) {
    status_ =
        fail(code, fmt::format("device '{}': a {} of {} failed while it was measured: {}", device_->name(),
                               verb(shape_.kind), format_bytes(shape_.size_bytes), to_string(code)));
  }
  stop(now);
}

void Load::check_stuck(Nanos now) {
  if (!status_ || !stuck(now)) return;
  status_ =
      fail(Errc::timed_out,
           fmt::format("device '{}' has not completed a {} of {} for {} s; {} requests still hold buffers",
                       device_->name(), verb(shape_.kind), format_bytes(shape_.size_bytes),
                       stall_limit / std::chrono::seconds(1), in_flight_));
}

void Load::finish(uint32_t slot, Nanos now) {
  const bool freed = free_.push(slot);
  KVPOOL_ASSERT(freed && in_flight_ > 0);
  --in_flight_;
  moved_at_ = now;
  const Nanos latency = now - slots_[slot].submitted_at;
  if (latencies_.size() < latencies_max) latencies_.push_back(latency);
  if (window_ < shape_.depth && latency < (stop_at_ - began_at_) / 8) ++window_;

  ++completed_;
  const Nanos mark_from = began_at_ + (stop_at_ - began_at_) / 5;
  // All that complete at one time lie on the same side of the mark.
  if (mark_ == 0 ? now >= mark_from : mark_at_ == now) {
    mark_ = completed_;
    mark_at_ = now;
  }
  if (now <= stop_at_ || now == last_at_ || last_ <= mark_ || mark_ == 0) {
    last_ = completed_;
    last_at_ = now;
  }
}

double Load::bytes_per_second() const {
  double requests = 0;
  Nanos time{0};
  if (mark_ > 0 && last_at_ > mark_at_) {
    requests = static_cast<double>(last_ - mark_);
    time = last_at_ - mark_at_;
  } else {
    // So slow that there are no two completions to count between.
    requests = static_cast<double>(completed_);
    time = last_at_ - began_at_;
  }
  // A device that takes no time must still have a number.
  constexpr double rate_max = 1e12;
  const double bytes = requests * shape_.size_bytes;
  return time > Nanos{0} ? std::min(bytes / seconds(time), rate_max) : rate_max;
}

Nanos Load::median_latency() const {
  if (latencies_.empty()) return Nanos{0};
  std::vector<Nanos> sorted = latencies_;
  const auto middle = sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2);
  std::nth_element(sorted.begin(), middle, sorted.end());
  return *middle;
}

uint64_t Load::covered_bytes() const {
  const uint64_t places = std::min(submitted_, shape_.range_bytes / shape_.size_bytes);
  return places * shape_.size_bytes;
}

namespace {

class Run {
 public:
  Run(const Clock& clock, Waiter& waiter, Transfer& transfer, std::span<Load> loads)
      : clock_(clock), waiter_(waiter), transfer_(transfer), loads_(loads) {
    for (const Load& load : loads) devices_.push_back(&load.device());
  }

  [[nodiscard]] Status run(Nanos duration) {
    const Nanos start = clock_.now();
    for (Load& load : loads_) load.begin(start, start + duration);
    while (!over()) {
      if (step()) continue;
      transfer_.prepare_wait();
      if (!step() && !over()) waiter_.wait(devices_, transfer_, wake_at());
      transfer_.done_wait();
    }
    return verdict();
  }

 private:
  [[nodiscard]] bool step() {
    bool any = false;
    bool failed = false;
    for (Load& load : loads_) {
      any |= load.step(clock_.now());
      load.check_stuck(clock_.now());
      failed |= !load.status();
    }
    std::array<TransferCompletion, 64> completions;
    const size_t count = transfer_.poll(completions);
    const Nanos now = clock_.now();
    for (size_t i = 0; i < count; ++i) loads_[completions[i].tag >> 32].copied(completions[i], now);
    if (failed) {
      for (Load& load : loads_) load.stop(now);
    }
    return any || count > 0;
  }

  [[nodiscard]] bool over() const {
    const Nanos now = clock_.now();
    return std::ranges::all_of(loads_, [&](const Load& load) { return load.idle(now) || load.stuck(now); });
  }

  // When a load must be looked at though nothing has come.
  [[nodiscard]] Nanos wake_at() const {
    const Nanos now = clock_.now();
    Nanos wake = never;
    for (const Load& load : loads_) {
      if (load.stop_at() > now) wake = std::min(wake, load.stop_at());
      if (load.in_flight() > 0) wake = std::min(wake, load.stuck_at());
    }
    return wake;
  }

  [[nodiscard]] Status verdict() {
    for (Load& load : loads_) {
      load.check_stuck(clock_.now());
      if (!load.status()) return load.status();
    }
    return {};
  }

  const Clock& clock_;
  Waiter& waiter_;
  Transfer& transfer_;
  std::span<Load> loads_;
  std::vector<Device*> devices_;
};

}  // namespace

Status run_loads(const Clock& clock, Waiter& waiter, Transfer& transfer, std::span<Load> loads,
                 Nanos duration) {
  return Run(clock, waiter, transfer, loads).run(duration);
}

}  // namespace kvpool
