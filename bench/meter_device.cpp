#include "bench/meter_device.h"

#include <algorithm>

#include "bench/system_calls.h"
#include "bench/system_time.h"

namespace kvpool::bench {
namespace {

void add(std::atomic<uint64_t>& counter, uint64_t value) {  // one writer
  counter.store(counter.load(std::memory_order_relaxed) + value, std::memory_order_relaxed);
}

}  // namespace

MeterDevice::MeterDevice(std::unique_ptr<Device> below, InFlight* storage)
    : below_(std::move(below)), storage_(storage) {}

Status MeterDevice::start(std::span<const std::span<std::byte>> regions) {
  owner_.store(this_thread(), std::memory_order_relaxed);
  return below_->start(regions);
}

bool MeterDevice::submit(const IoRequest& request) {
  const Nanos called = clock_.now();
  if (!below_->submit(request)) return false;
  begin(called);
  if (storage_ != nullptr) {
    storage_->begin(called);
    ++storage_requests_under_way;
  }
  add(request.kind == IoKind::read ? read_bytes_ : written_bytes_, request.length_bytes);
  return true;
}

size_t MeterDevice::poll(std::span<IoCompletion> out) {
  const size_t count = below_->poll(out);
  if (count == 0) return 0;
  const Nanos now = clock_.now();
  for (const IoCompletion& completion : out.first(count)) {
    const std::byte* const at = completion.in_place;
    if (at == nullptr) continue;
    memory_ = memory_ == nullptr ? at : std::min(memory_, at);
    memory_end_ = std::max(memory_end_, at + completion.bytes);
  }
  end(now, count);
  if (storage_ != nullptr) {
    storage_->end(now, count);
    storage_requests_under_way -= count;
  }
  return count;
}

void MeterDevice::begin(Nanos now) { in_flight_.begin(now); }

void MeterDevice::end(Nanos now, size_t count) {
  if (in_flight_.end(now, count)) record_.add_span(in_flight_.busy_since(), now);
}

MeterCounters MeterDevice::counters() const {
  return {read_bytes_.load(std::memory_order_relaxed), written_bytes_.load(std::memory_order_relaxed),
          in_flight_.busy(), in_flight_.total()};
}

}  // namespace kvpool::bench
