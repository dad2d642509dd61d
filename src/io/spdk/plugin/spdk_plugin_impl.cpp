// The shared object's one door: SpdkPlugin over SpdkEnv and SpdkDevice.

#include <utility>

#include "base/log.h"
#include "io/spdk/plugin/spdk_device.h"
#include "io/spdk/plugin/spdk_env.h"
#include "io/spdk/spdk_plugin.h"

namespace kvpool {
namespace {

class Plugin final : public SpdkPlugin {
 public:
  [[nodiscard]] Result<std::span<std::byte>> take(uint64_t bytes, int numa_node) override {
    return SpdkEnv::instance().take(bytes, numa_node);
  }
  void give_back(std::span<std::byte> memory) override { SpdkEnv::instance().give_back(memory); }
  [[nodiscard]] Status start(const SpdkEnvironment& wanted) override {
    return SpdkEnv::instance().start(wanted);
  }

  [[nodiscard]] Result<std::vector<std::unique_ptr<Device>>> open(
      std::span<const SpdkDeviceOptions> options) override {
    std::vector<std::unique_ptr<SpdkDevice>> attaching;
    for (const SpdkDeviceOptions& wanted : options) attaching.push_back(std::make_unique<SpdkDevice>(wanted));
    Status first_bad;
    for (const auto& device : attaching) {
      if (Status attached = device->attached(); !attached && first_bad) first_bad = std::move(attached);
    }
    if (!first_bad) return tl::unexpected(first_bad.error());
    return std::vector<std::unique_ptr<Device>>(std::make_move_iterator(attaching.begin()),
                                                std::make_move_iterator(attaching.end()));
  }
};

}  // namespace
}  // namespace kvpool

extern "C" __attribute__((visibility("default"))) kvpool::SpdkPlugin* kvpool_spdk_plugin(uint32_t version) {
  if (version != kvpool::spdk_plugin_version) return nullptr;
  static auto* const plugin = new kvpool::Plugin;  // the process's, as SPDK's environment is
  return plugin;
}
