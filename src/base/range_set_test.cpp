#include "base/range_set.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "base/prng.h"

namespace kvpool {
namespace {

std::vector<ByteRange> ranges_of(const RangeSet& set) { return {set.ranges().begin(), set.ranges().end()}; }

TEST(RangeSet, MergesNeighboursAndWhatOverlaps) {
  RangeSet set(4);
  EXPECT_TRUE(set.add({100, 10}));
  EXPECT_TRUE(set.add({120, 10}));
  EXPECT_TRUE(set.add({80, 10}));
  EXPECT_EQ(ranges_of(set), (std::vector<ByteRange>{{80, 10}, {100, 10}, {120, 10}}));
  EXPECT_TRUE(set.add({110, 10}));
  EXPECT_EQ(ranges_of(set), (std::vector<ByteRange>{{80, 10}, {100, 30}}));
  EXPECT_TRUE(set.add({85, 100}));
  EXPECT_EQ(ranges_of(set), (std::vector<ByteRange>{{80, 105}}));
}

TEST(RangeSet, DropsAndCountsWhatFindsNoRoom) {
  RangeSet set(2);
  EXPECT_TRUE(set.add({0, 100}));
  EXPECT_TRUE(set.is_half_full());
  EXPECT_TRUE(set.add({200, 100}));
  EXPECT_FALSE(set.add({400, 7}));
  EXPECT_TRUE(set.add({100, 10}));  // a neighbour needs none
  set.cut({220, 10});
  EXPECT_EQ(ranges_of(set), (std::vector<ByteRange>{{0, 110}, {200, 20}}));
  EXPECT_EQ(set.dropped_bytes(), 77U);
}

TEST(RangeSet, IsTakenFromItsEnd) {
  RangeSet set(2);
  EXPECT_TRUE(set.add({0, 100}));
  EXPECT_TRUE(set.add({200, 100}));
  EXPECT_EQ(set.take_last(30), (ByteRange{270, 30}));
  EXPECT_EQ(set.take_last(1000), (ByteRange{200, 70}));
  EXPECT_EQ(set.take_last(1000), (ByteRange{0, 100}));
  EXPECT_TRUE(set.empty());
}

// Against one flag a byte.
TEST(RangeSet, HoldsWhatWasAddedAndNotCut) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    Prng prng(seed);
    std::vector<bool> model(200, false);
    RangeSet set(model.size());
    for (int i = 0; i < 100; ++i) {
      const uint64_t offset = prng.below(model.size() - 1);
      const ByteRange range{offset, 1 + prng.below(std::min<uint64_t>(30, model.size() - offset))};
      const bool adds = prng.chance(0.5);
      adds ? (void)set.add(range) : set.cut(range);
      std::fill_n(model.begin() + static_cast<std::ptrdiff_t>(offset), range.length_bytes, adds);
      std::vector<bool> held(model.size(), false);
      uint64_t end_before = UINT64_MAX;
      for (const ByteRange& one : set.ranges()) {
        ASSERT_GT(one.length_bytes, 0U);
        ASSERT_TRUE(end_before == UINT64_MAX || one.offset > end_before) << "not merged, or not in order";
        end_before = one.end();
        std::fill_n(held.begin() + static_cast<std::ptrdiff_t>(one.offset), one.length_bytes, true);
      }
      ASSERT_EQ(held, model) << "seed " << seed;
    }
    ASSERT_EQ(set.dropped_bytes(), 0U);
  }
}

}  // namespace
}  // namespace kvpool
