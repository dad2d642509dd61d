#include "base/plugin.h"

#include <dlfcn.h>

#include <filesystem>
#include <system_error>

namespace kvpool {
namespace {

// The folder of the program or library that this code is in.
std::filesystem::path own_folder() {
  Dl_info about{};
  if (dladdr(reinterpret_cast<const void*>(&open_plugin), &about) == 0 || about.dli_fname == nullptr)
    return {};
  std::error_code ignored;
  const auto path = std::filesystem::canonical(about.dli_fname, ignored);
  // Of a program started by its name alone dladdr knows no more than the name.
  if (ignored) return std::filesystem::canonical("/proc/self/exe", ignored).parent_path();
  return path.parent_path();
}

}  // namespace

void* open_plugin(const char* file_name, std::string& why) {
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

}  // namespace kvpool
