// Typed numbers: no two bare integers of different meaning. A typed number converts to nothing by itself;
// `.value` is the way out, the explicit constructor the way in.

#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>

namespace kvpool {

template <class Tag, class Rep>
struct Id {
  using Representation = Rep;
  Rep value{};

  constexpr Id() = default;
  constexpr explicit Id(Rep v) : value(v) {}
  friend constexpr auto operator<=>(const Id&, const Id&) = default;
};

using DeviceId = Id<struct DeviceIdTag, uint8_t>;         // index of a device in its pool
using NamespaceId = Id<struct NamespaceIdTag, uint16_t>;  // index of a namespace in its pool
using BlockId = Id<struct BlockIdTag, uint32_t>;          // index of a block's record in the catalog
using ConsumerId = Id<struct ConsumerIdTag, uint16_t>;    // index of a consumer in its pool
using ByteOffset = Id<struct ByteOffsetTag, uint64_t>;    // place in a device's data area, in bytes

inline constexpr BlockId no_block{UINT32_MAX};
inline constexpr DeviceId no_device{UINT8_MAX};

// The most devices in a pool: a placement map spends four bits a segment.
inline constexpr size_t devices_max = 16;
// The most segments (layers, as a rule) in a block.
inline constexpr size_t segments_max = 128;

// What a serving engine calls a block: the content hash over the whole prefix. kvpool compares all 128 bits
// and never recomputes it.
struct BlockKey {
  uint64_t high = 0;
  uint64_t low = 0;
  friend constexpr auto operator<=>(const BlockKey&, const BlockKey&) = default;
};
static_assert(sizeof(BlockKey) == 16);

}  // namespace kvpool
