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

// What the bytes of some pieces in GPU memory must be, one after the other; those of a segment.
struct CheckedPieces {
  uint64_t seed = 0;
  uint64_t sum = 0;
  uint32_t first = 0;  // in the batch's list
  uint32_t count = 0;
};
static_assert(sizeof(CheckedPieces) == 24);

}  // namespace kvpool
