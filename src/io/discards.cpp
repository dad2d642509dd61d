#include "io/discards.h"

#include <algorithm>

#include "base/assert.h"

namespace kvpool {

Discards::Discards(const DiscardLimits& limits) : limits_(limits), waiting_(limits.ranges_max) {
  KVPOOL_ASSERT(limits.ranges_max > 0 && limits.range_bytes_max > 0 && limits.command_bytes_max > 0);
  under_way_.reserve(limits.ranges_max);
}

bool Discards::add(ByteOffset offset, uint64_t length_bytes) {
  return waiting_.add({offset.value, length_bytes});
}

bool Discards::admit_write(ByteOffset offset, uint64_t length_bytes) {
  const ByteRange written{offset.value, length_bytes};
  if (std::ranges::any_of(under_way_, [&](const ByteRange& range) { return range.overlaps(written); })) {
    return false;
  }
  waiting_.cut(written);
  return true;
}

std::span<const ByteRange> Discards::send() {
  KVPOOL_ASSERT(can_send());
  uint64_t left = limits_.command_bytes_max;
  while (left > 0 && under_way_.size() < limits_.ranges_max && !waiting_.empty()) {
    under_way_.push_back(waiting_.take_last(std::min(left, limits_.range_bytes_max)));
    left -= under_way_.back().length_bytes;
  }
  return under_way_;
}

void Discards::finish() {
  KVPOOL_ASSERT(is_under_way());
  under_way_.clear();
}

}  // namespace kvpool
