#include "api/compose.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <thread>

#include "base/log.h"
#include "base/units.h"
#include "config/spdk_address.h"
#include "io/cap_device.h"
#include "io/file/file_device.h"
#include "io/memory/arena.h"
#include "io/memory/memory_device.h"
#include "io/null/null_device.h"
#include "io/nvme/nvme_device.h"
#include "io/sim/sim_device.h"
#include "io/spdk/spdk_plugin.h"
#include "probe/profile_file.h"
#include "xfer/host/host_transfer.h"

namespace kvpool {
namespace {

constexpr uint64_t page_bytes = 4096;
constexpr uint64_t page_bytes_huge = 2ULL << 20;

template <class D>
Result<std::unique_ptr<Device>> upcast(Result<std::unique_ptr<D>> device) {
  if (!device) return tl::unexpected(device.error());
  return std::unique_ptr<Device>(std::move(*device));
}

bool has_iommu() {
  std::error_code ignored;
  return std::filesystem::directory_iterator("/sys/class/iommu", ignored) !=
         std::filesystem::directory_iterator();
}

bool needs_staging(DeviceKind kind) { return kind != DeviceKind::memory; }

class RealDeviceSet final : public DeviceSet {
 public:
  [[nodiscard]] Status take(const Config& config) {
    const auto staged =
        std::ranges::count_if(config.devices, [](const auto& d) { return needs_staging(d.kind); });
    ArenaOptions options;
    // Huge pages go to those who move data first: staging, consumers' buffers, then memory devices.
    if (staged > 0) options.parts.push_back({.name = "staging", .bytes = config.staging_bytes});
    if (config.buffer_bytes > 0) options.parts.push_back({.name = "buffers", .bytes = config.buffer_bytes});
    for (const DeviceConfig& device : config.devices) {
      if (device.kind != DeviceKind::memory) continue;
      options.parts.push_back(
          {.name = device.name, .bytes = device.size_bytes, .numa_node = device.numa_node});
    }
    if (Status loaded = load_drivers(config, options); !loaded) return loaded;
    if (!options.parts.empty()) {
      auto arena = Arena::create(options);
      if (!arena) return tl::unexpected(arena.error());
      arena_ = std::move(*arena);
    }
    size_t part = 0;
    std::span<std::byte> staging;
    if (staged > 0) staging = arena_->part(part++);
    if (config.buffer_bytes > 0) buffers_ = arena_->part(part++);
    const uint64_t each =
        staged > 0 ? staging.size() / static_cast<uint64_t>(staged) / page_bytes * page_bytes : 0;
    for (const DeviceConfig& device : config.devices) {
      memory_.push_back(device.kind == DeviceKind::memory ? arena_->part(part++) : std::span<std::byte>{});
      staging_.push_back(needs_staging(device.kind) ? staging.first(each) : std::span<std::byte>{});
      if (needs_staging(device.kind)) staging = staging.subspan(each);
    }
    return {};
  }

  [[nodiscard]] Status open(const Config& config, const Clock& clock, const DeviceHooks& hooks) override {
    close();
    if (Status attached = attach_spdk(config, hooks); !attached) return attached;
    for (size_t i = 0; i < config.devices.size(); ++i) {
      const DeviceConfig& wanted = config.devices[i];
      const bool replaced = hooks.make_storage && wanted.kind != DeviceKind::memory;
      auto device = replaced   ? hooks.make_storage(wanted)
                    : spdk_[i] ? Result<std::unique_ptr<Device>>(std::move(spdk_[i]))
                               : make(wanted, memory_[i], clock);
      if (!device) return tl::unexpected(device.error());
      if (wanted.limit_read_bytes_per_second || wanted.limit_write_bytes_per_second) {
        *device = std::make_unique<CapDevice>(
            std::move(*device),
            CapOptions{wanted.limit_read_bytes_per_second, wanted.limit_write_bytes_per_second}, clock);
      }
      if (hooks.decorate) *device = hooks.decorate(std::move(*device));
      devices_.push_back(std::move(*device));
    }
    return {};
  }

  void close() override { devices_.clear(); }

  [[nodiscard]] std::vector<Device*> devices() const override {
    std::vector<Device*> all;
    for (const auto& device : devices_) all.push_back(device.get());
    return all;
  }
  [[nodiscard]] std::vector<std::span<std::byte>> staging() const override { return staging_; }
  [[nodiscard]] std::span<std::byte> buffers() const override { return buffers_; }
  [[nodiscard]] std::vector<std::span<std::byte>> regions() const override {
    return arena_ ? arena_->regions() : std::vector<std::span<std::byte>>{};
  }
  [[nodiscard]] std::string memory_description() const override {
    if (!arena_) return "no memory";
    return fmt::format("{} of {} in huge pages", format_bytes(arena_->report().huge_bytes),
                       format_bytes(arena_->report().bytes));
  }

 private:
  // Drivers that have memory of their own start before memory is taken.
  [[nodiscard]] Status load_drivers(const Config& config, ArenaOptions& arena) {
    SpdkEnvironment environment;
    bool wanted = false;
    bool own_memory = false;
    for (const DeviceConfig& device : config.devices) {
      if (device.kind != DeviceKind::spdk) continue;
      const auto address = parse_spdk_address(device.path);
      if (!address) return tl::unexpected(address.error());
      wanted = true;
      environment.pci |= address->is_pcie();
      // Without an IOMMU only memory that the kernel never moves can be told to a drive.
      own_memory |= address->is_vfio_user() || (address->is_pcie() && !has_iommu());
    }
    if (!wanted) return {};
    auto loaded = load_spdk();
    if (!loaded) return tl::unexpected(loaded.error());
    plugin_ = *loaded;
    for (const ArenaPart& part : arena.parts) {
      if (own_memory) environment.own_memory_bytes += part.bytes + page_bytes_huge;
    }
    if (own_memory) arena.source = plugin_;
    return plugin_->start(environment);
  }

  // All at the same time: one that is far away takes a while.
  [[nodiscard]] Status attach_spdk(const Config& config, const DeviceHooks& hooks) {
    spdk_.clear();
    spdk_.resize(config.devices.size());
    std::vector<SpdkDeviceOptions> wanted;
    std::vector<size_t> numbers;
    for (size_t i = 0; i < config.devices.size(); ++i) {
      const DeviceConfig& device = config.devices[i];
      if (device.kind != DeviceKind::spdk || hooks.make_storage) continue;
      const auto address = parse_spdk_address(device.path);
      if (!address) return tl::unexpected(address.error());
      wanted.push_back({.name = device.name,
                        .address = address->controller,
                        .namespace_id = address->namespace_id,
                        .host_nqn = address->host_nqn,
                        .size_bytes = device.size_bytes,
                        .queue_depth = device.queue_depth,
                        .io_timeout = device.io_timeout,
                        .poll_slack = device.poll_slack_percent / 100.0});
      numbers.push_back(i);
    }
    if (wanted.empty()) return {};
    auto opened = plugin_->open(wanted);
    if (!opened) return tl::unexpected(opened.error());
    for (size_t i = 0; i < numbers.size(); ++i) spdk_[numbers[i]] = std::move((*opened)[i]);
    return {};
  }

  static Result<std::unique_ptr<Device>> make(const DeviceConfig& wanted, std::span<std::byte> memory,
                                              const Clock& clock) {
    switch (wanted.kind) {
      case DeviceKind::memory:
        return std::make_unique<MemoryDevice>(wanted.name, memory);
      case DeviceKind::null:
        return std::make_unique<NullDevice>(wanted.name, wanted.size_bytes, wanted.queue_depth);
      case DeviceKind::sim:
        return std::make_unique<SimDevice>(
            clock, SimDeviceOptions{.name = wanted.name,
                                    .size_bytes = wanted.size_bytes,
                                    .read_bytes_per_second = wanted.sim_read_bytes_per_second,
                                    .write_bytes_per_second = wanted.sim_write_bytes_per_second,
                                    .latency = wanted.sim_latency,
                                    .queue_depth_max = wanted.queue_depth});
      case DeviceKind::nvme:
        return upcast(NvmeDevice::open({.name = wanted.name,
                                        .path = wanted.path,
                                        .size_bytes = wanted.size_bytes,
                                        .queue_depth = wanted.queue_depth,
                                        .discard = wanted.discard,
                                        .poll_slack = wanted.poll_slack_percent / 100.0}));
      case DeviceKind::spdk:  // attached together, before
      case DeviceKind::file:
        break;
    }
    return upcast(FileDevice::open({.name = wanted.name,
                                    .path = wanted.path,
                                    .size_bytes = wanted.size_bytes,
                                    .queue_depth = wanted.queue_depth}));
  }

  SpdkPlugin* plugin_ = nullptr;               // the process's
  std::vector<std::unique_ptr<Device>> spdk_;  // attached and not yet given out, by number
  std::unique_ptr<Arena> arena_;
  std::span<std::byte> buffers_;
  std::vector<std::span<std::byte>> memory_;  // one a device; empty where it is not memory
  std::vector<std::span<std::byte>> staging_;
  std::vector<std::unique_ptr<Device>> devices_;
};

void apply_caps(const Config& config, Profile& profile) {
  for (size_t i = 0; i < config.devices.size(); ++i) {
    DeviceProfile& device = profile.devices[i];
    const auto& read_cap = config.devices[i].limit_read_bytes_per_second;
    device.read_bytes_per_second = bounded_by_cap(device.read_bytes_per_second, read_cap);
    device.write_bytes_per_second =
        bounded_by_cap(device.write_bytes_per_second, config.devices[i].limit_write_bytes_per_second);
    if (device.together_bytes_per_second > 0) {
      device.together_bytes_per_second = bounded_by_cap(device.together_bytes_per_second, read_cap);
    }
  }
}

// A consumer that reads memory where it lies takes as much of it as its link gives, whatever copies by the
// CPU would give.
void apply_link(const Config& config, Profile& profile) {
  if (!config.link_bytes_per_second) return;
  profile.link_bytes_per_second = static_cast<double>(*config.link_bytes_per_second);
  for (size_t i = 0; i < config.devices.size(); ++i) {
    if (config.devices[i].kind != DeviceKind::memory) continue;
    DeviceProfile& device = profile.devices[i];
    device.read_bytes_per_second =
        bounded_by_cap(config.in_place_bytes_per_second(*config.link_bytes_per_second),
                       config.devices[i].limit_read_bytes_per_second);
    device.together_bytes_per_second = device.read_bytes_per_second;
  }
}

// A stored profile of these devices, or a quick one.
Result<Profile> find_profile(const Config& config, DeviceSet& set, const Clock& clock) {
  auto stored = stored_profile(config.profile_path, config.unmeasured());
  if (!stored) return tl::unexpected(stored.error());
  if (*stored) return std::move(**stored);
  auto probed = probe_devices(config, set, clock, quick_probe());
  if (!probed) return tl::unexpected(probed.error());
  return std::move(probed->profile);
}

// Records for as many of the smallest configured blocks as the devices hold. Without a namespace in the
// configuration blocks are taken to be small; a large pool of small blocks sets limits.blocks.
uint32_t blocks_that_fit(const Config& config) {
  constexpr uint64_t small_block_bytes = 32 << 10;
  constexpr uint64_t unknown_blocks_max = 4 << 20;
  if (config.limits.blocks > 0) return config.limits.blocks;
  uint64_t bytes = 0;
  for (const DeviceConfig& device : config.devices) bytes += device.size_bytes;
  uint64_t blocks = std::min(bytes / small_block_bytes, unknown_blocks_max);
  for (const NamespaceConfig& ns : config.namespaces) {
    blocks = std::max(blocks, bytes / std::max<uint64_t>(ns.geometry.block_bytes(), page_bytes));
  }
  return static_cast<uint32_t>(std::clamp<uint64_t>(blocks + 64, 1024, 1U << 30));
}

Result<std::unique_ptr<Catalog>> open_catalog(const Config& config, std::span<Device* const> devices,
                                              std::span<const double> shares) {
  CatalogOptions options;
  options.devices = Engine::catalog_devices(devices, shares);
  bool has_memory = false;
  bool has_storage = false;
  for (const Device* device : devices) (device->limits().in_place ? has_memory : has_storage) = true;
  options.blocks_max = blocks_that_fit(config);
  if (config.namespaces.empty()) options.segments_max = segments_max;
  for (const NamespaceConfig& ns : config.namespaces) {
    options.segments_max = std::max(options.segments_max, ns.geometry.segments());
  }
  options.residences_max = has_memory && has_storage ? 2 : 1;
  return Catalog::open(options);
}

// A quarter of the cores. Two at least where there are two: one core's copies and checksums are less than
// memory and a fast drive deliver together.
uint32_t transfer_threads(const Config& config) {
  if (config.transfer_threads > 0) return config.transfer_threads;
  const uint32_t cores = std::max(1U, std::thread::hardware_concurrency());
  return std::clamp(cores / 4, std::min(2U, cores), 8U);
}

EngineOptions engine_options(const Config& config, std::vector<double> shares, Profile profile) {
  EngineOptions options;
  options.transfer_workers = transfer_threads(config);
  options.consumers_max = config.limits.consumers;
  options.tickets_max = config.limits.tickets;
  options.pins_max = config.limits.pins;
  options.blocks_per_request_max = config.limits.blocks_per_request;
  options.segments_per_request_max = config.limits.segments_per_request;
  options.deadline = config.limits.deadline;
  options.stall_warning = config.limits.stall_warning;
  options.verify = config.verify == VerifyRule::storage  ? Verify::storage
                   : config.verify == VerifyRule::always ? Verify::always
                                                         : Verify::none;
  options.shares = std::move(shares);
  options.profile = std::move(profile);
  return options;
}

}  // namespace

Pieces::Pieces() = default;
Pieces::~Pieces() = default;

Result<std::unique_ptr<DeviceSet>> DeviceSet::take_memory(const Config& config) {
  auto set = std::make_unique<RealDeviceSet>();
  if (Status taken = set->take(config); !taken) return tl::unexpected(taken.error());
  return std::unique_ptr<DeviceSet>(std::move(set));
}

std::unique_ptr<Transfer> make_transfer(const Config& config, const DeviceHooks& hooks) {
  std::unique_ptr<Transfer> transfer = std::make_unique<HostTransfer>(transfer_threads(config));
  return hooks.decorate_transfer ? hooks.decorate_transfer(std::move(transfer)) : std::move(transfer);
}

Result<ProbeResult> probe_devices(const Config& config, DeviceSet& set, const Clock& clock,
                                  const ProbeOptions& options) {
  if (Status opened = set.open(config, clock, {}); !opened) return tl::unexpected(opened.error());
  const auto transfer = make_transfer(config, {});
  PollWaiter waiter(clock);
  auto result =
      probe(clock, waiter, set.devices(), set.staging(), set.buffers(), set.regions(), *transfer, options);
  set.close();
  if (!result) return result;
  apply_caps(config, result->profile);
  const std::vector<DeviceProfile> unmeasured = config.unmeasured();
  for (size_t i = 0; i < unmeasured.size(); ++i) {
    result->profile.devices[i].measured_as = unmeasured[i].measured_as;
  }
  result->profile.conditions += ", " + set.memory_description();
  return result;
}

Result<std::unique_ptr<Pieces>> compose(Config config) {
  return compose(std::move(config), {}, std::nullopt);
}

Result<std::unique_ptr<Pieces>> compose(Config config, const DeviceHooks& hooks,
                                        std::optional<Profile> given_profile) {
  auto pieces = std::make_unique<Pieces>();
  pieces->clock = std::make_unique<SteadyClock>();
  auto set = DeviceSet::take_memory(config);
  if (!set) return tl::unexpected(set.error());
  pieces->set = std::move(*set);
  auto profile = given_profile ? Result<Profile>(std::move(*given_profile))
                               : find_profile(config, *pieces->set, *pieces->clock);
  if (!profile) return tl::unexpected(profile.error());
  apply_caps(config, *profile);
  apply_link(config, *profile);
  if (config.placement == PlacementRule::link && profile->link_bytes_per_second <= 0) {
    log_warn("placement \"link\": no pool.link is given, so shares are as with \"bandwidth\"");
  }
  if (Status opened = pieces->set->open(config, *pieces->clock, hooks); !opened)
    return tl::unexpected(opened.error());
  const std::vector<Device*> devices = pieces->set->devices();
  std::vector<double> shares = planned_shares(config.placement, *profile);
  auto catalog = open_catalog(config, devices, shares);
  if (!catalog) return tl::unexpected(catalog.error());
  pieces->catalog = std::move(*catalog);
  pieces->transfer = make_transfer(config, hooks);
  pieces->buffers = pieces->set->buffers();
  pieces->regions = pieces->set->regions();

  const Engine::Wiring wiring{.clock = pieces->clock.get(),
                              .catalog = pieces->catalog.get(),
                              .transfer = pieces->transfer.get(),
                              .devices = devices,
                              .staging = pieces->set->staging()};
  pieces->engine =
      std::make_unique<Engine>(wiring, engine_options(config, std::move(shares), std::move(*profile)));
  pieces->reactor = std::make_unique<Reactor>(
      *pieces->engine, wiring, Reactor::Options{.spin = config.spin, .regions = pieces->regions});
  pieces->config = std::move(config);
  return pieces;
}

}  // namespace kvpool
