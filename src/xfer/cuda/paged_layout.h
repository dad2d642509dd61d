// Where an engine's KV cache keeps its pages in GPU memory, and which of them a segment of a block is made
// of. It is what connectors/pages/page_layout.h says of memory that the CPU reaches.
//
// A layer's cache is an array of pages of equal shape at equal distances; a page has pieces. A segment is
// some pages of one layer, one after the other, the pieces of each packed in the order in which they are
// listed.
//
// Plain data; no thread. Failure: check_layers() names the first layer that cannot be.

#pragma once

#include <cstddef>
#include <cstdint>
#include <numeric>
#include <optional>
#include <span>
#include <vector>

#include "base/result.h"

namespace kvpool {

// A run of bytes in a page, from the page's first byte on.
struct PagedPiece {
  uint64_t offset_bytes = 0;
  uint64_t length_bytes = 0;
};

// One layer's pages. The CPU does arithmetic with `base` and never reads or writes there.
struct PagedLayer {
  std::byte* base = nullptr;  // page 0
  uint64_t page_stride_bytes = 0;
  uint32_t pages = 0;
  std::vector<PagedPiece> pieces;

  [[nodiscard]] uint64_t page_bytes() const {
    return std::accumulate(pieces.begin(), pieces.end(), uint64_t{0},
                           [](uint64_t sum, const PagedPiece& piece) { return sum + piece.length_bytes; });
  }
  // From the first byte of page 0 to the last one that a piece of the last page has.
  [[nodiscard]] uint64_t extent_bytes() const;
  // Whether a GPU can sum what lies in its pages: pieces of whole KiB, at multiples of 16 bytes.
  [[nodiscard]] bool can_be_checked() const;
};

// What the bytes of a segment must be: XXH3 of 64 bits with that seed (src/base/checksum.h).
struct PagedCheck {
  uint64_t seed = 0;
  uint64_t sum = 0;
};

// A segment in host memory, and the numbers of its pages: `pages_count` of its batch's, from `pages_first`
// on.
struct PagedSegment {
  std::byte* host = nullptr;
  uint32_t layer = 0;
  uint32_t pages_first = 0;
  uint32_t pages_count = 0;
  std::optional<PagedCheck> check;  // of a load, in the pages
};

// Refuses layers without pages or pieces, pieces of no bytes, and extents beyond 2^48 bytes.
[[nodiscard]] Status check_layers(std::span<const PagedLayer> layers);

}  // namespace kvpool
