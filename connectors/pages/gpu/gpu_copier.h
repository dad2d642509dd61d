// gpu_copier(): a PageCopier for pages in GPU memory, by a GpuTransfer. The pool's memory is registered with
// the GPU at open(); movers of the process share that. An event (CopyBatch::after) is a cudaEvent_t as a
// number.
//
// Thread: PageCopier's. Failure: open() says UNSUPPORTED where there is no such GPU, no driver or no
// libkvpool_cuda.so, INVALID_ARGUMENT for layers that are not in the memory of that GPU. After an error of
// CUDA, which is logged once, every batch is refused and those under way fail.

#pragma once

#include <functional>
#include <memory>

#include "base/result.h"
#include "connectors/pages/page_copier.h"
#include "xfer/cuda/gpu_transfer.h"

namespace kvpool::pages {

// CUDA's ordinal. Nothing of CUDA is looked for before open().
[[nodiscard]] std::unique_ptr<PageCopier> gpu_copier(int device);

using OpenTransfer = std::function<Result<std::unique_ptr<GpuTransfer>>(const GpuOptions&)>;
[[nodiscard]] std::unique_ptr<PageCopier> gpu_copier(int device, OpenTransfer open_transfer);

}  // namespace kvpool::pages
