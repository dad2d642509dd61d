// Tries a method in a process of its own, so that one that the machine cannot do costs a line and not the
// run. Thread: one, before CUDA is used in this process. Failure: false, and the reason on stderr.

#pragma once

#include "xfer/cuda/gpu_transfer.h"

namespace kvpool {

[[nodiscard]] bool method_works(GpuMethod method, int device);

}  // namespace kvpool
