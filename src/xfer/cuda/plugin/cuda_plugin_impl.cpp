#include "xfer/cuda/plugin/cuda_plugin_impl.h"

#include "xfer/cuda/plugin/cuda_transfer.h"

namespace kvpool {
namespace {

class Plugin final : public CudaPlugin {
 public:
  [[nodiscard]] Result<std::unique_ptr<GpuTransfer>> open(const GpuOptions& options) override {
    return CudaTransfer::open(options);
  }
};

}  // namespace

CudaPlugin& cuda_plugin() {
  static auto* const plugin = new Plugin;  // the process's, as CUDA's context is
  return *plugin;
}

}  // namespace kvpool
