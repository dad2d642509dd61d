// MemorySource: somebody who has memory of his own kind for the arena, such as memory that a driver in user
// space can map into a device.
// Thread: any one at a time. Failure: a Result that says how much was asked for and what to do.

#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/result.h"

namespace kvpool {

class MemorySource {
 public:
  MemorySource() = default;
  MemorySource(const MemorySource&) = delete;
  MemorySource& operator=(const MemorySource&) = delete;
  virtual ~MemorySource() = default;

  // Contiguous, zeroed, on a 2 MiB boundary. numa_node: -1 is anywhere. REQUIRES: a multiple of 2 MiB.
  [[nodiscard]] virtual Result<std::span<std::byte>> take(uint64_t bytes, int numa_node) = 0;
  // REQUIRES: it came from take(), whole.
  virtual void give_back(std::span<std::byte> memory) = 0;
};

}  // namespace kvpool
