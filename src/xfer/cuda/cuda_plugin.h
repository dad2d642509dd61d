// CudaPlugin: what the rest of kvpool knows of CUDA. It lives in a shared object of its own,
// libkvpool_cuda.so, which is loaded when somebody wants a GPU and never before, so that one kvpool runs on
// machines with an NVIDIA driver and without.
//
// Thread: any; load_cuda() and all methods may be called at the same time. Failure: a Result whose message
// says what is missing and what to do.

#pragma once

#include <cstdint>
#include <memory>

#include "base/result.h"
#include "xfer/cuda/gpu_transfer.h"

namespace kvpool {

class CudaPlugin {
 public:
  CudaPlugin() = default;
  CudaPlugin(const CudaPlugin&) = delete;
  CudaPlugin& operator=(const CudaPlugin&) = delete;
  virtual ~CudaPlugin() = default;

  // Errc::unsupported where that device, or all of them, are not here. Takes a second where the process has
  // no CUDA context yet.
  [[nodiscard]] virtual Result<std::unique_ptr<GpuTransfer>> open(const GpuOptions& options) = 0;
};

// Looks for the driver (libcuda.so.1), then for libkvpool_cuda.so beside this program or library, in ../lib
// of it, and where the dynamic linker looks. Errc::unsupported where one of them is not installed.
[[nodiscard]] Result<CudaPlugin*> load_cuda();

// The one function of the shared object; `version` is that of this header.
inline constexpr uint32_t cuda_plugin_version = 4;
using CudaPluginEntry = CudaPlugin* (*)(uint32_t version);

}  // namespace kvpool
