// RangeSet: byte ranges that do not overlap, in order, neighbours merged. Bounded; all memory is taken in the
// constructor. For what may be forgotten: a range that finds no room is dropped, and counted.
//
// Thread: its owner's.

#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace kvpool {

struct ByteRange {
  uint64_t offset = 0;
  uint64_t length_bytes = 0;
  [[nodiscard]] uint64_t end() const { return offset + length_bytes; }
  [[nodiscard]] bool overlaps(const ByteRange& other) const {
    return offset < other.end() && other.offset < end();
  }
  friend bool operator==(const ByteRange&, const ByteRange&) = default;
};

class RangeSet {
 public:
  explicit RangeSet(size_t ranges_max) : ranges_max_(ranges_max) { ranges_.reserve(ranges_max); }

  // False: full; the set is as it was. REQUIRES: the range is not empty.
  bool add(ByteRange range);
  // Takes out what lies in `range`. Where that would make two of one and there is no room, the rest behind
  // `range` is dropped.
  void cut(ByteRange range);
  // Takes out the last range, or the end of it that is at most so long. REQUIRES: not empty.
  ByteRange take_last(uint64_t bytes_max);

  [[nodiscard]] bool empty() const { return ranges_.empty(); }
  [[nodiscard]] bool is_half_full() const { return ranges_.size() >= (ranges_max_ + 1) / 2; }
  [[nodiscard]] std::span<const ByteRange> ranges() const { return ranges_; }
  // That found no room, since the beginning.
  [[nodiscard]] uint64_t dropped_bytes() const { return dropped_bytes_; }

 private:
  // The first range that ends at `offset` or behind it.
  [[nodiscard]] std::vector<ByteRange>::iterator first_reaching(uint64_t offset);

  size_t ranges_max_;
  std::vector<ByteRange> ranges_;
  uint64_t dropped_bytes_ = 0;
};

}  // namespace kvpool
