#include "base/range_set.h"

#include <algorithm>

#include "base/assert.h"

namespace kvpool {

std::vector<ByteRange>::iterator RangeSet::first_reaching(uint64_t offset) {
  return std::ranges::lower_bound(ranges_, offset, {}, &ByteRange::end);
}

bool RangeSet::add(ByteRange range) {
  KVPOOL_ASSERT(range.length_bytes > 0);
  const auto first = first_reaching(range.offset);
  auto last = first;
  uint64_t begin = range.offset;
  uint64_t end = range.end();
  for (; last != ranges_.end() && last->offset <= range.end(); ++last) {
    begin = std::min(begin, last->offset);
    end = std::max(end, last->end());
  }
  if (first != last) {
    *first = {begin, end - begin};
    ranges_.erase(first + 1, last);
    return true;
  }
  if (ranges_.size() == ranges_max_) {
    dropped_bytes_ += range.length_bytes;
    return false;
  }
  ranges_.insert(first, range);
  return true;
}

void RangeSet::cut(ByteRange range) {
  auto at = first_reaching(range.offset + 1);
  if (at == ranges_.end() || !at->overlaps(range)) return;
  if (at->offset < range.offset && at->end() > range.end()) {
    const ByteRange behind{range.end(), at->end() - range.end()};
    at->length_bytes = range.offset - at->offset;
    if (ranges_.size() < ranges_max_) {
      ranges_.insert(at + 1, behind);
    } else {
      dropped_bytes_ += behind.length_bytes;
    }
    return;
  }
  if (at->offset < range.offset) {
    at->length_bytes = range.offset - at->offset;
    ++at;
  }
  auto last = at;
  while (last != ranges_.end() && last->end() <= range.end()) ++last;
  if (last != ranges_.end() && last->offset < range.end()) {
    *last = {range.end(), last->end() - range.end()};
  }
  ranges_.erase(at, last);
}

ByteRange RangeSet::take_last(uint64_t bytes_max) {
  KVPOOL_ASSERT(!ranges_.empty() && bytes_max > 0);
  ByteRange& last = ranges_.back();
  if (last.length_bytes > bytes_max) {
    last.length_bytes -= bytes_max;
    return {last.end(), bytes_max};
  }
  const ByteRange taken = last;
  ranges_.pop_back();
  return taken;
}

}  // namespace kvpool
