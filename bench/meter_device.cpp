#include "bench/meter_device.h"

#include <algorithm>

#include "bench/system_time.h"

namespace kvpool::bench {
namespace {

template <class T>
void add(std::atomic<T>& counter, T value) {  // one writer
  counter.store(counter.load(std::memory_order_relaxed) + value, std::memory_order_relaxed);
}

}  // namespace

MeterDevice::MeterDevice(std::unique_ptr<Device> below) : below_(std::move(below)) {}

Status MeterDevice::start(std::span<const std::span<std::byte>> regions) {
  owner_.store(this_thread(), std::memory_order_relaxed);
  return below_->start(regions);
}

bool MeterDevice::submit(const IoRequest& request) {
  const Nanos called = clock_.now();
  const bool taken = below_->submit(request);
  add(calls_ns_, (clock_.now() - called).count());
  if (!taken) return false;
  begin(called);
  add(request.kind == IoKind::read ? read_bytes_ : written_bytes_, uint64_t{request.length_bytes});
  return true;
}

size_t MeterDevice::poll(std::span<IoCompletion> out) {
  const Nanos called = clock_.now();
  const size_t count = below_->poll(out);
  const Nanos now = clock_.now();
  add(calls_ns_, (now - called).count());
  for (const IoCompletion& completion : out.first(count)) {
    const std::byte* const at = completion.in_place;
    if (at == nullptr) continue;
    memory_ = memory_ == nullptr ? at : std::min(memory_, at);
    memory_end_ = std::max(memory_end_, at + completion.bytes);
  }
  if (count > 0) end(now, count);
  return count;
}

void MeterDevice::begin(Nanos now) {
  if (under_way_++ == 0) busy_since_ = now;
}

void MeterDevice::end(Nanos now, size_t count) {
  under_way_ -= count;
  if (under_way_ > 0) return;
  add(busy_ns_, (now - busy_since_).count());
  record_.add_span(busy_since_, now);
}

MeterCounters MeterDevice::counters() const {
  return {read_bytes_.load(std::memory_order_relaxed), written_bytes_.load(std::memory_order_relaxed),
          Nanos(busy_ns_.load(std::memory_order_relaxed)), Nanos(calls_ns_.load(std::memory_order_relaxed))};
}

}  // namespace kvpool::bench
