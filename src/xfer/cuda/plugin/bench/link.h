// The link: one large copy each way between pinned host memory and GPU memory, which is what a transfer is
// compared with. Thread: one. Failure: a Result with CUDA's words.

#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/result.h"
#include "xfer/cuda/plugin/cuda_handles.h"

namespace kvpool {

// Which directions a measurement has.
struct Directions {
  bool load = false;
  bool store = false;
  [[nodiscard]] uint64_t count() const { return uint64_t{load} + uint64_t{store}; }
};

class Link {
 public:
  [[nodiscard]] Status open();
  // Bytes a second, both directions together. Loads go to the first half of the block, stores come from the
  // second. REQUIRES: host memory is pinned; the block has twice the bytes.
  [[nodiscard]] Result<double> measure(Directions directions, std::span<std::byte> load_from,
                                       std::span<std::byte> store_to, std::byte* block);

 private:
  Stream load_;
  Stream store_;
};

}  // namespace kvpool
