#include "bench/longdoc_system.h"

#include <algorithm>
#include <array>

#include "bench/files_storage.h"
#include "bench/pooled_system.h"
#include "bench/tiered_system.h"

namespace kvpool::bench {
namespace {

constexpr std::array system_table{
    SystemKind{"tiered-files", false, StoragePath::files, std::nullopt},
    SystemKind{"pooled-files", true, StoragePath::files, std::nullopt},
    SystemKind{"tiered-direct", false, StoragePath::direct, std::nullopt},
    SystemKind{"striped-direct", true, StoragePath::direct, PlacementRule::equal},
    SystemKind{"pooled-direct", true, StoragePath::direct, std::nullopt},
    SystemKind{"tiered-passthrough", false, StoragePath::passthrough, std::nullopt},
    SystemKind{"pooled-passthrough", true, StoragePath::passthrough, std::nullopt},
};

}  // namespace

std::span<const SystemKind> system_kinds() { return system_table; }

std::string why_left_out(StoragePath path, const Config& config) {
  const auto count = [&](auto is) { return std::count_if(config.devices.begin(), config.devices.end(), is); };
  const auto passed_through = count([](const DeviceConfig& d) { return is_passthrough(d.kind); });
  if (path == StoragePath::passthrough) {
    return passed_through > 0 ? ""
                              : "no device of the configuration is read by passthrough (kinds nvme, spdk)";
  }
  const auto memory = count([](const DeviceConfig& d) { return d.kind == DeviceKind::memory; });
  if (passed_through == 0 || passed_through + memory < static_cast<ptrdiff_t>(config.devices.size()))
    return {};
  return "all storage devices of the configuration are read by passthrough; such systems want one of kind "
         "file";
}

Result<std::unique_ptr<System>> open_system(const SystemKind& kind, Machine& machine, const Config& config,
                                            const Profile& profile, const Documents& documents) {
  Config own = config;
  own.buffer_bytes = consumer_buffer_bytes(documents);
  own.placement = kind.placement.value_or(config.placement);
  if (kind.pooled) return PooledSystem::open(machine, std::move(own), profile, documents, kind.path);
  return TieredSystem::open(machine, own, documents, kind.path);
}

SystemUse use_of(const Meters& meters, const FilesStorage* files) {
  SystemUse use;
  bool storage = false;
  for (const MeterDevice* meter : meters.devices) {
    const MeterCounters counters = meter->counters();
    const bool in_place = meter->limits().in_place;
    storage |= !in_place;
    use.devices.push_back({meter->name(), in_place, counters.read_bytes, counters.busy, counters.under_way});
  }
  if (storage) use.storage_busy = files != nullptr ? files->disk_busy() : meters.storage.busy();
  return use;
}

}  // namespace kvpool::bench
