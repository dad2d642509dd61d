// Payload that is generated from (key, segment), so that whoever reads it back knows every byte without
// keeping a copy. Pure functions, any thread, any size and alignment.
//
// Words of 64 bits count up from a value drawn from key and segment, with their high bits folded in; the
// first 24 bytes of every 4 KiB are a stamp {hash of the key, segment, offset}. So a page that came from
// elsewhere, or from before, is told by one look at its stamp, and any wrong byte by a full comparison.

#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/ids.h"

namespace kvpool::bench {

inline constexpr uint64_t payload_page_bytes = 4096;

void fill_payload(std::span<std::byte> out, const BlockKey& key, uint32_t segment);

// Looks at one stamp in each 4 KiB. Cheap enough to do inline.
[[nodiscard]] bool payload_stamps_match(std::span<const std::byte> bytes, const BlockKey& key,
                                        uint32_t segment);

// Compares every byte.
[[nodiscard]] bool payload_equals(std::span<const std::byte> bytes, const BlockKey& key, uint32_t segment);

}  // namespace kvpool::bench
