#include "xfer/cuda/cuda_plugin.h"

#include <dlfcn.h>

#include <string>

#include "base/plugin.h"

namespace kvpool {
namespace {

constexpr const char* driver_name = "libcuda.so.1";
constexpr const char* file_name = "libkvpool_cuda.so";
constexpr const char* entry_name = "kvpool_cuda_plugin";

}  // namespace

Result<CudaPlugin*> load_cuda() {
  if (dlopen(driver_name, RTLD_LAZY | RTLD_LOCAL) == nullptr) {
    return fail(Errc::unsupported,
                std::string(driver_name) + " cannot be loaded: this machine has no NVIDIA driver");
  }
  std::string why;
  void* const library = open_plugin(file_name, why);
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
