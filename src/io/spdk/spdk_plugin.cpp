#include "io/spdk/spdk_plugin.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <string>

#include "base/plugin.h"

namespace kvpool {
namespace {

constexpr const char* file_name = "libkvpool_spdk.so";
constexpr const char* entry_name = "kvpool_spdk_plugin";

}  // namespace

Result<SpdkPlugin*> load_spdk() {
  std::string why;
  void* const library = open_plugin(file_name, why);
  if (library == nullptr) {
    return fail(
        Errc::unsupported,
        fmt::format("`spdk` devices need {}, which is built where pkg-config finds SPDK 24.09 or later "
                    "(docs/spdk.md), and it cannot be loaded: {}; use `nvme` devices, or build it",
                    file_name, why));
  }
  const auto entry = reinterpret_cast<SpdkPluginEntry>(dlsym(library, entry_name));
  SpdkPlugin* const plugin = entry == nullptr ? nullptr : entry(spdk_plugin_version);
  if (plugin == nullptr) {
    return fail(
        Errc::unsupported,
        fmt::format("{} is of another version of kvpool; build and install both together", file_name));
  }
  return plugin;
}

}  // namespace kvpool
