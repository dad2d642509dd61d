// The shared object's one door.

#include "xfer/cuda/plugin/cuda_plugin_impl.h"

extern "C" __attribute__((visibility("default"))) kvpool::CudaPlugin* kvpool_cuda_plugin(uint32_t version) {
  return version == kvpool::cuda_plugin_version ? &kvpool::cuda_plugin() : nullptr;
}
