#include "io/spdk/spdk_plugin.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <filesystem>
#include <system_error>

namespace kvpool {
namespace {

constexpr const char* file_name = "libkvpool_spdk.so";
constexpr const char* entry_name = "kvpool_spdk_plugin";

// The folder of the program or library that this code is in.
std::filesystem::path own_folder() {
  Dl_info about{};
  if (dladdr(reinterpret_cast<const void*>(&load_spdk), &about) == 0 || about.dli_fname == nullptr) return {};
  std::error_code ignored;
  const auto path = std::filesystem::canonical(about.dli_fname, ignored);
  // Of a program started by its name alone dladdr knows no more than the name.
  if (ignored) return std::filesystem::canonical("/proc/self/exe", ignored).parent_path();
  return path.parent_path();
}

// It is never closed again: SPDK's threads and memory are of the process.
void* open_library(std::string& why) {
  const std::filesystem::path folder = own_folder();
  for (const std::string& path :
       {(folder / file_name).string(), (folder / "../lib" / file_name).string(), std::string(file_name)}) {
    std::error_code ignored;
    if (path != file_name && !std::filesystem::exists(path, ignored)) continue;
    if (void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL); library != nullptr) return library;
    if (const char* const error = dlerror(); error != nullptr && why.empty()) why = error;
  }
  return nullptr;
}

}  // namespace

Result<SpdkPlugin*> load_spdk() {
  std::string why;
  void* const library = open_library(why);
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
