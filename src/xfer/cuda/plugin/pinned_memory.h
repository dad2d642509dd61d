// PinnedMemory: a share in host memory that is registered with CUDA. Transfers of the process over the same
// memory share what one of them has registered, and the last share to go unregisters it. What somebody else
// has pinned is used as it is.
//
// Thread: any; one at a time registers and unregisters, under a lock of the process. Not on the data path.
// Failure: pin() returns CUDA's code and words; system where the memory is not pinned afterwards.

#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"

namespace kvpool {

class PinnedMemory {
 public:
  // REQUIRES: the memory is not empty, and `device` is current (DeviceGuard).
  [[nodiscard]] static Result<PinnedMemory> pin(std::span<std::byte> memory, int device);
  PinnedMemory(PinnedMemory&& other) noexcept = default;
  PinnedMemory& operator=(PinnedMemory&& other) = delete;
  ~PinnedMemory();

 private:
  class Range;
  struct Ranges;
  [[nodiscard]] static Ranges& all();

  PinnedMemory() = default;
  std::vector<std::shared_ptr<Range>> ranges_;  // that it has a part of; none of somebody else's
};

}  // namespace kvpool
