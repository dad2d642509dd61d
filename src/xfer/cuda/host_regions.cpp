#include "xfer/cuda/host_regions.h"

#include <algorithm>

namespace kvpool {

void HostRegions::add(std::span<const std::byte> memory) {
  if (memory.empty()) return;
  const auto begin = reinterpret_cast<uint64_t>(memory.data());
  ranges_.push_back({begin, begin + memory.size()});
  std::ranges::sort(ranges_, {}, &Range::begin);
  std::vector<Range> joined;
  for (const Range& range : ranges_) {
    if (!joined.empty() && range.begin <= joined.back().end) {
      joined.back().end = std::max(joined.back().end, range.end);
    } else {
      joined.push_back(range);
    }
  }
  ranges_ = std::move(joined);
  last_ = 0;
}

bool HostRegions::contains(const std::byte* first, uint64_t bytes) const {
  const auto begin = reinterpret_cast<uint64_t>(first);
  const auto holds = [&](const Range& range) {
    return begin >= range.begin && begin < range.end && bytes <= range.end - begin;
  };
  if (last_ < ranges_.size() && holds(ranges_[last_])) return true;
  const auto after = std::ranges::upper_bound(ranges_, begin, {}, &Range::begin);
  if (after == ranges_.begin()) return false;
  last_ = static_cast<size_t>(after - ranges_.begin()) - 1;
  return holds(ranges_[last_]);
}

}  // namespace kvpool
