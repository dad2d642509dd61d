// Where a buffer lies among regions of memory that a device knows.

#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

namespace kvpool {

// The index of the region that holds the whole buffer, or -1. REQUIRES: the regions are sorted by address and
// do not overlap.
[[nodiscard]] inline std::ptrdiff_t region_around(std::span<const std::span<std::byte>> regions,
                                                  const std::byte* buffer, uint32_t length_bytes) {
  const auto after =
      std::ranges::upper_bound(regions, buffer, {}, [](const auto& region) { return region.data(); });
  if (after == regions.begin()) return -1;
  const std::span<std::byte>& region = *std::prev(after);
  if (length_bytes > region.size() || buffer > region.data() + (region.size() - length_bytes)) return -1;
  return std::prev(after) - regions.begin();
}

}  // namespace kvpool
