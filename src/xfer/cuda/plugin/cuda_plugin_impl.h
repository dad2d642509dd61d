// The CudaPlugin of this process, for the shared object's door and for programs that link it.
// Thread: any. Failure: none.

#pragma once

#include "xfer/cuda/cuda_plugin.h"

namespace kvpool {

[[nodiscard]] CudaPlugin& cuda_plugin();

}  // namespace kvpool
