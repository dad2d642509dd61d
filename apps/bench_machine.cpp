#include "apps/bench_machine.h"

#include <utility>

#include "api/compose.h"
#include "api/pool.h"

namespace kvpool {
namespace {

// In the order in which they are made.
struct Owner {
  SteadyClock clock;
  std::unique_ptr<DeviceSet> set;
};

DeviceHooks to_api(const bench::DeviceHooks& hooks) {
  return {hooks.make_storage, hooks.decorate, hooks.decorate_transfer};
}

}  // namespace

Result<bench::OpenedDevices> BenchMachine::open_devices(const Config& config,
                                                        const bench::DeviceHooks& hooks) {
  auto owner = std::make_shared<Owner>();
  auto set = DeviceSet::take_memory(config);
  if (!set) return tl::unexpected(set.error());
  owner->set = std::move(*set);
  if (Status opened = owner->set->open(config, owner->clock, to_api(hooks)); !opened) {
    return tl::unexpected(opened.error());
  }
  bench::OpenedDevices opened;
  opened.regions = owner->set->regions();
  opened.buffers = owner->set->buffers();
  opened.transfer = make_transfer(config, to_api(hooks));
  opened.devices = owner->set->devices();
  opened.owner = std::move(owner);
  return opened;
}

Result<kvpool_pool*> BenchMachine::open_pool(const Config& config, const Profile& profile,
                                             const bench::DeviceHooks& hooks) {
  auto pieces = compose(config, to_api(hooks), profile);
  if (!pieces) return tl::unexpected(pieces.error());
  auto pool = kvpool_pool::start(std::move(*pieces));
  if (!pool) return tl::unexpected(pool.error());
  return pool->release();
}

}  // namespace kvpool
