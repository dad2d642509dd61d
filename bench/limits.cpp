#include "bench/limits.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "bench/files_storage.h"

namespace kvpool::bench {
namespace {

constexpr uint64_t part_bytes_max = 1ULL << 20;
// Beyond what processors and drives keep in caches of their own.
constexpr uint64_t memory_bytes_max = 256ULL << 20;
constexpr uint64_t storage_bytes_max = 1ULL << 30;
constexpr uint64_t buffer_bytes_max = 128ULL << 20;
constexpr uint32_t depth_storage = 32;
constexpr uint32_t depth_memory = 8;

}  // namespace

double Limits::together() const {
  return std::accumulate(read_bytes_per_second.begin(), read_bytes_per_second.end(), 0.0);
}

Result<std::unique_ptr<LimitMeter>> LimitMeter::open(Machine& machine, const Config& config, Nanos duration) {
  std::unique_ptr<LimitMeter> meter(new LimitMeter);
  meter->duration_ = duration;
  Config own = config;
  own.buffer_bytes = 0;
  for (DeviceConfig& device : own.devices) {
    device.size_bytes =
        std::min(device.size_bytes, is_storage(device.kind) ? storage_bytes_max : memory_bytes_max);
    own.buffer_bytes = std::min(own.buffer_bytes + device.size_bytes, buffer_bytes_max);
    if (lies_in_a_file(device)) device.path += ".limit";
  }
  auto opened = machine.open_devices(own, {});
  if (!opened) return tl::unexpected(opened.error());
  meter->opened_ = std::move(*opened);
  std::vector<Device*> devices;
  for (size_t i = 0; i < own.devices.size(); ++i) {
    // Only now is it certain that the file is ours to remove.
    if (own.devices[i].kind == DeviceKind::file) meter->files_.push_back(own.devices[i].path);
    Device& device = *meter->opened_.devices[i];
    const DeviceLimits limits = device.limits();
    const uint64_t part = std::min<uint64_t>(limits.transfer_bytes_max, part_bytes_max);
    meter->devices_.push_back(
        {.config = own.devices[i],
         .part_bytes = part,
         .size_bytes = limits.size_bytes / part * part,
         .depth = std::min(limits.in_place ? depth_memory : depth_storage, limits.queue_depth_max),
         .part = {{0, static_cast<uint32_t>(part)}}});
    if (auto started = device.start(meter->opened_.regions); !started) return tl::unexpected(started.error());
    devices.push_back(&device);
  }
  meter->mover_ = std::make_unique<BlockMover>(std::move(devices), *meter->opened_.transfer,
                                               meter->opened_.buffers, part_bytes_max);
  meter->slot_devices_.resize(meter->mover_->slots());
  if (auto filled = meter->fill(); !filled) return tl::unexpected(filled.error());
  return meter;
}

LimitMeter::~LimitMeter() {
  if (mover_) mover_->drain();
  for (const std::string& path : files_) unlink(path.c_str());
}

// Extents of a preallocated file that were never written read as zeros at no cost.
Status LimitMeter::fill() {
  std::memset(opened_.buffers.data(), 0x5a, opened_.buffers.size());
  for (uint32_t d = 0; d < devices_.size(); ++d) {
    uint64_t begun = 0;
    uint64_t done = 0;
    while (done < devices_[d].size_bytes) {
      while (begun < devices_[d].size_bytes) {
        const auto slot = mover_->take();
        if (!slot) break;
        mover_->begin(*slot, IoKind::write, d, ByteOffset(begun), devices_[d].part);
        begun += devices_[d].part_bytes;
      }
      if (auto moved = mover_->advance(); !moved) return moved;
      while (const auto slot = mover_->finished()) {
        mover_->release(*slot);
        done += devices_[d].part_bytes;
      }
    }
  }
  return {};
}

void LimitMeter::begin_read(uint32_t device, uint32_t slot) {
  OneDevice& from = devices_[device];
  slot_devices_[slot] = device;
  mover_->begin(slot, IoKind::read, device, ByteOffset(from.next_offset), from.part);
  from.next_offset = (from.next_offset + from.part_bytes) % from.size_bytes;
}

Result<std::vector<double>> LimitMeter::read(const std::vector<bool>& reading) {
  const SteadyClock clock;
  uint32_t under_way = 0;
  const auto begin_next = [&](uint32_t device) {
    const auto slot = mover_->take();
    if (!slot) return;
    begin_read(device, *slot);
    ++under_way;
  };
  for (uint32_t d = 0; d < devices_.size(); ++d) {
    for (uint32_t i = 0; reading[d] && i < devices_[d].depth; ++i) begin_next(d);
  }
  std::vector<uint64_t> bytes(devices_.size());
  const Nanos begin = clock.now();
  Nanos end = begin;
  while (under_way > 0) {
    if (auto moved = mover_->advance(); !moved) return tl::unexpected(moved.error());
    const bool measuring = end - begin < duration_;
    if (measuring) end = clock.now();
    while (const auto slot = mover_->finished()) {
      const uint32_t device = slot_devices_[*slot];
      mover_->release(*slot);
      --under_way;
      if (!measuring) continue;
      bytes[device] += devices_[device].part_bytes;
      begin_next(device);
    }
  }
  std::vector<double> rates;
  const double seconds = std::chrono::duration<double>(end - begin).count();
  for (size_t d = 0; d < devices_.size(); ++d) {
    rates.push_back(bounded_by_cap(static_cast<double>(bytes[d]) / seconds,
                                   devices_[d].config.limit_read_bytes_per_second));
  }
  return rates;
}

Result<Limits> LimitMeter::measure() {
  auto rates = read(std::vector<bool>(devices_.size(), true));
  if (!rates) return tl::unexpected(rates.error());
  return Limits{std::move(*rates)};
}

Result<Profile> LimitMeter::profile() {
  Profile profile;
  for (size_t d = 0; d < devices_.size(); ++d) {
    std::vector<bool> alone(devices_.size());
    alone[d] = true;
    const auto rates = read(alone);
    if (!rates) return tl::unexpected(rates.error());
    DeviceProfile device;
    device.name = devices_[d].config.name;
    device.read_bytes_per_second = (*rates)[d];
    device.write_bytes_per_second = (*rates)[d];
    device.queue_bytes = devices_[d].depth * devices_[d].part_bytes;
    device.storage = is_storage(devices_[d].config.kind);
    profile.devices.push_back(device);
  }
  const auto together = measure();
  if (!together) return tl::unexpected(together.error());
  for (size_t d = 0; d < devices_.size(); ++d) {
    DeviceProfile& device = profile.devices[d];
    device.together_bytes_per_second = together->read_bytes_per_second[d];
    // No device is slower alone than among others: where it seems so, something else disturbed it.
    device.read_bytes_per_second = std::max(device.read_bytes_per_second, device.together_bytes_per_second);
  }
  return profile;
}

}  // namespace kvpool::bench
