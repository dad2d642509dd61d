#include "bench/meter_transfer.h"

namespace kvpool::bench {

MeterTransfer::MeterTransfer(std::unique_ptr<Transfer> below, std::vector<MeterDevice*> meters)
    : below_(std::move(below)), meters_(std::move(meters)), jobs_(jobs_max) {
  for (uint32_t i = jobs_max; i > 0; --i) free_.push_back(i - 1);
}

MeterDevice* MeterTransfer::meter_of(const TransferJob& job) const {
  for (MeterDevice* meter : meters_) {
    if (meter->has_handed_out(job.source) || meter->has_handed_out(job.destination)) return meter;
  }
  return nullptr;
}

bool MeterTransfer::submit(const TransferJob& job) {
  if (free_.empty()) return false;
  const uint32_t index = free_.back();
  TransferJob renamed = job;
  renamed.tag = index;
  if (!below_->submit(renamed)) return false;
  free_.pop_back();
  jobs_[index] = {job.tag, meter_of(job)};
  if (jobs_[index].meter != nullptr) jobs_[index].meter->copy_begins(clock_.now());
  return true;
}

size_t MeterTransfer::poll(std::span<TransferCompletion> out) {
  const size_t count = below_->poll(out);
  if (count == 0) return 0;
  const Nanos now = clock_.now();
  for (TransferCompletion& completion : out.first(count)) {
    const auto index = static_cast<uint32_t>(completion.tag);
    completion.tag = jobs_[index].tag;
    if (jobs_[index].meter != nullptr) jobs_[index].meter->copy_ends(now);
    free_.push_back(index);
  }
  return count;
}

std::vector<pid_t> Meters::storage_drivers() const {
  std::vector<pid_t> drivers;
  for (const MeterDevice* device : devices) {
    if (device->is_driven_storage()) drivers.push_back(device->owner_thread());
  }
  return drivers;
}

DeviceHooks meter_hooks(Meters& meters, bool workers) {
  DeviceHooks hooks;
  hooks.decorate = [&meters, workers](std::unique_ptr<Device> device) {
    const bool driven = !workers && !device->limits().in_place;
    auto meter = std::make_unique<MeterDevice>(std::move(device), driven ? &meters.storage : nullptr);
    meters.devices.push_back(meter.get());
    return meter;
  };
  hooks.decorate_transfer = [&meters](std::unique_ptr<Transfer> transfer) {
    return std::make_unique<MeterTransfer>(std::move(transfer), meters.devices);
  };
  return hooks;
}

}  // namespace kvpool::bench
