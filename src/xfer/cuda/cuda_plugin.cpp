#include "xfer/cuda/cuda_plugin.h"

#include <dlfcn.h>

#include <filesystem>
#include <string>
#include <system_error>

namespace kvpool {
namespace {

constexpr const char* driver_name = "libcuda.so.1";
constexpr const char* file_name = "libkvpool_cuda.so";
constexpr const char* entry_name = "kvpool_cuda_plugin";

// The folder of the program or library that this code is in.
std::filesystem::path own_folder() {
  Dl_info about{};
  if (dladdr(reinterpret_cast<const void*>(&load_cuda), &about) == 0 || about.dli_fname == nullptr) return {};
  std::error_code ignored;
  const auto path = std::filesystem::canonical(about.dli_fname, ignored);
  // Of a program started by its name alone dladdr knows no more than the name.
  if (ignored) return std::filesystem::canonical("/proc/self/exe", ignored).parent_path();
  return path.parent_path();
}

// It is never closed again: CUDA's context and threads are of the process.
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

Result<CudaPlugin*> load_cuda() {
  if (dlopen(driver_name, RTLD_LAZY | RTLD_LOCAL) == nullptr) {
    return fail(Errc::unsupported,
                std::string(driver_name) + " cannot be loaded: this machine has no NVIDIA driver");
  }
  std::string why;
  void* const library = open_library(why);
  if (library == nullptr) {
    return fail(Errc::unsupported,
                std::string("GPUs need ") + file_name +
                    ", which is built where nvcc is found, and it cannot be loaded: " + why);
  }
  const auto entry = reinterpret_cast<CudaPluginEntry>(dlsym(library, entry_name));
  CudaPlugin* const plugin = entry == nullptr ? nullptr : entry(cuda_plugin_version);
  if (plugin == nullptr) {
    return fail(Errc::unsupported,
                std::string(file_name) + " is of another version of kvpool; build and install both together");
  }
  return plugin;
}

}  // namespace kvpool
