// CopyPiece: bytes that are neighbours in host memory and in GPU memory. The CPU lists them, a kernel reads
// the list. Plain data; no thread, no failure.

#pragma once

#include <cstdint>

namespace kvpool {

struct CopyPiece {
  uint64_t host = 0;
  uint64_t device = 0;
  uint64_t bytes = 0;
};
static_assert(sizeof(CopyPiece) == 24);

}  // namespace kvpool
