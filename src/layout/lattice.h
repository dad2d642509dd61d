// Lattice: the two steps of a placement sequence, one along a chain's blocks, one along a block's segments,
// in units of 2^-64.
//
// The segments of one block lie evenly: segment l at l x stride / segments, with stride and segments coprime.
// The next block lies the same, moved by (shift + golden ratio) / segments. So a device's share of whole
// blocks is missed by about one segment, three at most, however many blocks there are. Stride and shift were
// chosen for each number of segments such that prefixes of them are spread well too:
// docs/decisions/placement.md.

#pragma once

#include <cstdint>

namespace kvpool {

struct Lattice {
  uint64_t depth_step = 0;
  uint64_t segment_step = 0;
};

// REQUIRES: 0 < segments <= segments_max.
[[nodiscard]] Lattice lattice_of(uint32_t segments);

}  // namespace kvpool
