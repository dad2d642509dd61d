// Where an engine's KV cache keeps its pages, and how they make up the segments of a pool's block.
//
// A layer's cache is an array of pages of equal shape at equal distances. A page may be cut into pieces (keys
// and values apart, say); stored, they follow each other in the order of their addresses. A segment of a
// block is one layer's pages: all of the block's, or for a layer with a sliding window the last few.
//
// Plain data and arithmetic; no thread. Failure: page_pieces() returns nothing for strides that overlap.

#pragma once

#include <cstddef>
#include <cstdint>
#include <numeric>
#include <optional>
#include <span>
#include <vector>

namespace kvpool::pages {

// A run of bytes in a page, from the page's first byte on.
struct Piece {
  uint64_t offset_bytes = 0;
  uint64_t length_bytes = 0;
  friend bool operator==(const Piece&, const Piece&) = default;
};

// The pieces of one page of that shape and those strides (in bytes, 0 or more), in the order of their
// addresses. None: two elements lie in the same place, or a number is out of range.
[[nodiscard]] std::optional<std::vector<Piece>> page_pieces(std::span<const uint64_t> shape,
                                                            std::span<const uint64_t> strides_bytes,
                                                            uint64_t element_bytes);

// One layer's pages in memory.
struct Layer {
  std::byte* base = nullptr;  // page 0
  uint64_t page_stride_bytes = 0;
  uint32_t pages = 0;
  std::vector<Piece> pieces;
  uint32_t group = 0;  // layers of a group share their page numbers

  [[nodiscard]] uint64_t page_bytes() const {
    return std::accumulate(pieces.begin(), pieces.end(), uint64_t{0},
                           [](uint64_t sum, const Piece& piece) { return sum + piece.length_bytes; });
  }
  [[nodiscard]] std::byte* page(uint32_t number) const { return base + number * page_stride_bytes; }
};

// Which pages a block has: of each group so many, named one group after the other.
struct BlockPages {
  std::vector<uint32_t> of_group;

  [[nodiscard]] uint32_t first_of(uint32_t group) const {
    return std::accumulate(of_group.begin(), of_group.begin() + group, 0U);
  }
  [[nodiscard]] uint32_t count() const { return first_of(static_cast<uint32_t>(of_group.size())); }
};

// Copies a layer's pages into a segment, one after the other, or back. A page number below 0 is a page that
// is not there: its place in the segment stays as it is.
// REQUIRES: numbers below layer.pages; the segment has room for all of them.
void gather(const Layer& layer, std::span<const int32_t> pages, std::byte* segment);
void scatter(const Layer& layer, std::span<const int32_t> pages, const std::byte* segment);

}  // namespace kvpool::pages
