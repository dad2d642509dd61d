// The memory of what Python hands over: whatever has the buffer protocol or DLPack.
//
// Thread: any that holds the GIL. Failure: TypeError for what is not contiguous, not in host memory, or not
// writable where it must be.

#pragma once

#include <nanobind/nanobind.h>

#include <cstddef>
#include <memory>
#include <vector>

namespace kvpool::python {

struct Memory {
  const void* data = nullptr;
  size_t bytes = 0;
};

// What holds the memory; dropped with the GIL held.
using Kept = std::vector<std::shared_ptr<void>>;

[[nodiscard]] Memory memory_of(nanobind::handle object, bool writable, Kept& kept);

}  // namespace kvpool::python
