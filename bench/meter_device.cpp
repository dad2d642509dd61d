#include "bench/meter_device.h"

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
  const Nanos begin = clock_.now();
  const bool taken = below_->submit(request);
  add(calls_ns_, (clock_.now() - begin).count());
  if (!taken) return false;
  if (in_flight_++ == 0) busy_since_ = begin;
  add(request.kind == IoKind::read ? read_bytes_ : written_bytes_, uint64_t{request.length_bytes});
  return true;
}

size_t MeterDevice::poll(std::span<IoCompletion> out) {
  const Nanos begin = clock_.now();
  const size_t count = below_->poll(out);
  const Nanos end = clock_.now();
  add(calls_ns_, (end - begin).count());
  in_flight_ -= static_cast<uint32_t>(count);
  if (count > 0 && in_flight_ == 0) add(busy_ns_, (end - busy_since_).count());
  return count;
}

MeterCounters MeterDevice::counters() const {
  return {read_bytes_.load(std::memory_order_relaxed), written_bytes_.load(std::memory_order_relaxed),
          Nanos(busy_ns_.load(std::memory_order_relaxed)), Nanos(calls_ns_.load(std::memory_order_relaxed))};
}

}  // namespace kvpool::bench
