// The checksum of a segment: XXH3, 64 bits over the logical bytes, seeded with the block's key and the
// segment's number, so that right bytes in a wrong place are caught too.

#pragma once

#define XXH_INLINE_ALL
// So far ahead of what is summed memory is asked for. A processor does that itself within a page
// (docs/benchmarks.md, "First token on a GPU").
#define XXH_PREFETCH_DIST 8192
#include <xxhash.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/ids.h"
#include "base/prng.h"

namespace kvpool {

[[nodiscard]] inline uint64_t checksum_seed(const BlockKey& key, uint32_t segment) {
  return mix64(key.high ^ mix64(key.low + segment));
}

[[nodiscard]] inline uint64_t checksum(std::span<const std::byte> bytes, uint64_t seed) {
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), seed);
}

}  // namespace kvpool
