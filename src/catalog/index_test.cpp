#include "catalog/index.h"

#include <gtest/gtest.h>

#include <unordered_map>

namespace kvpool {
namespace {

TEST(Index, FindsWhatWasInsertedThroughManyErasures) {
  constexpr uint32_t blocks = 2000;
  Index index;
  ASSERT_TRUE(index.open(blocks).has_value());
  std::unordered_map<uint32_t, uint32_t> tags;  // by block
  Prng prng(7);
  for (int step = 0; step < 200'000; ++step) {
    const BlockId block(static_cast<uint32_t>(prng.below(blocks)));
    const auto at = tags.find(block.value);
    if (at == tags.end()) {
      // Few tags, close together at both ends of the table: long clusters that wrap around.
      const uint32_t low = static_cast<uint32_t>(prng.below(64) << (prng.chance(0.5) ? 0 : 26));
      const uint32_t tag = prng.chance(0.5) ? low : ~low;
      index.insert(tag, block);
      tags[block.value] = tag;
    } else {
      index.erase(at->second, block);
      tags.erase(at);
    }
  }
  for (uint32_t i = 0; i < blocks; ++i) {
    const BlockId block(i);
    const auto at = tags.find(i);
    const uint32_t tag = at == tags.end() ? 0 : at->second;
    const BlockId found = index.find(tag, [&](BlockId candidate) { return candidate == block; });
    EXPECT_EQ(found, at == tags.end() ? no_block : block);
  }
}

TEST(Index, ProbesStayShortWhenHalfFull) {
  constexpr uint32_t blocks = 1U << 17;
  Index index;
  ASSERT_TRUE(index.open(blocks).has_value());
  for (uint32_t i = 0; i < blocks; ++i) index.insert(Index::tag(NamespaceId(0), {0, i}), BlockId(i));
  EXPECT_LE(index.probes_max(), 16);
  for (uint32_t i = 0; i < 10 * blocks; ++i) {
    index.erase(Index::tag(NamespaceId(0), {0, i}), BlockId(i % blocks));
    index.insert(Index::tag(NamespaceId(0), {0, i + blocks}), BlockId(i % blocks));
  }
  EXPECT_LE(index.probes_max(), 16);
}

TEST(Index, NamespacesHaveKeysOfTheirOwn) {
  EXPECT_NE(Index::tag(NamespaceId(0), {1, 2}), Index::tag(NamespaceId(1), {1, 2}));
  EXPECT_NE(Index::tag(NamespaceId(0), {1, 2}), Index::tag(NamespaceId(0), {2, 1}));
}

}  // namespace
}  // namespace kvpool
