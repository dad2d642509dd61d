// The memory that the bench moves: huge pages where the kernel gives them, and one block of the GPU's.
// Thread: one. Failure: a Result with the system's words.

#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/result.h"

namespace kvpool {

class HostMemory {
 public:
  HostMemory() = default;
  HostMemory(const HostMemory&) = delete;
  HostMemory& operator=(const HostMemory&) = delete;
  ~HostMemory();

  // Faulted in, each word of it a different number; `seed` makes two of them differ.
  [[nodiscard]] Status open(uint64_t bytes, uint64_t seed);
  [[nodiscard]] std::span<std::byte> bytes() const { return memory_; }
  // How much of the process's memory is in huge pages.
  [[nodiscard]] static uint64_t huge_bytes();

 private:
  std::span<std::byte> memory_;
};

}  // namespace kvpool
