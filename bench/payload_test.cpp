#include "bench/payload.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

namespace kvpool::bench {
namespace {

constexpr BlockKey key{7, 9};

std::vector<std::byte> filled(size_t bytes, const BlockKey& of = key, uint32_t segment = 3) {
  std::vector<std::byte> out(bytes);
  fill_payload(out, of, segment);
  return out;
}

TEST(Payload, IsKnownByKeyAndSegment) {
  for (const size_t bytes : {1UL, 7UL, 24UL, 4096UL, 4097UL, 4096UL * 3 + 25, 1UL << 20}) {
    const auto payload = filled(bytes);
    EXPECT_TRUE(payload_equals(payload, key, 3));
    EXPECT_TRUE(payload_stamps_match(payload, key, 3));
    for (const auto& [other, segment] :
         {std::pair(BlockKey{7, 8}, 3U), {BlockKey{8, 9}, 3U}, {BlockKey{9, 7}, 3U}, {key, 4U}}) {
      if (bytes < 24 && segment == 4) continue;  // the cut stamp does not reach the segment
      EXPECT_FALSE(payload_equals(payload, other, segment));
      EXPECT_FALSE(payload_stamps_match(payload, other, segment));
    }
  }
}

TEST(Payload, AnyFlippedByteIsSeen) {
  auto payload = filled(4096 * 2 + 13);
  for (size_t i = 0; i < payload.size(); ++i) {
    payload[i] ^= std::byte{0x10};
    ASSERT_FALSE(payload_equals(payload, key, 3)) << i;
    ASSERT_EQ(payload_stamps_match(payload, key, 3), i % 4096 >= 24) << i;
    payload[i] ^= std::byte{0x10};
  }
  EXPECT_TRUE(payload_equals(payload, key, 3));
}

TEST(Payload, SwappedPagesAreSeenByTheirStamps) {
  auto payload = filled(4096 * 4);
  std::swap_ranges(payload.begin(), payload.begin() + 4096, payload.begin() + 8192);
  EXPECT_FALSE(payload_stamps_match(payload, key, 3));
  EXPECT_FALSE(payload_equals(payload, key, 3));
}

TEST(Payload, NoTwoPagesAreAlike) {
  std::set<std::vector<std::byte>> pages;
  for (uint64_t block = 0; block < 8; ++block) {
    for (uint32_t segment = 0; segment < 4; ++segment) {
      const auto payload = filled(4096 * 8, {block, block + 1}, segment);
      for (size_t at = 0; at < payload.size(); at += 4096) {
        pages.emplace(payload.begin() + at + 24, payload.begin() + at + 4096);
      }
    }
  }
  EXPECT_EQ(pages.size(), 8U * 4 * 8);
}

TEST(Payload, TakesAnyAlignment) {
  std::vector<std::byte> room(8192 + 16);
  const auto inside = std::span(room).subspan(3, 8192);
  fill_payload(inside, key, 1);
  EXPECT_TRUE(payload_equals(inside, key, 1));
  EXPECT_EQ(room[2], std::byte{0});
  EXPECT_EQ(room[3 + 8192], std::byte{0});
}

}  // namespace
}  // namespace kvpool::bench
