// Calls of CUDA that fail when a test wants them to. The linker puts these before CUDA's own (--wrap), so
// that the product needs no hook: cudaMemcpyAsync, cudaMemcpyBatchAsync, cudaEventRecord,
// cudaStreamWaitEvent, cudaLaunchKernelExC and cudaLaunchHostFunc. Thread: the test's. Failure: that is what
// it is for.

#pragma once

namespace kvpool {

// After so many calls one fails with cudaErrorMemoryAllocation, and nothing is done by it; below 0: none.
void fail_cuda_after(int calls);
// Calls since then.
[[nodiscard]] int cuda_calls();

}  // namespace kvpool
