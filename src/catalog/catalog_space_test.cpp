// How the catalog shares space between geometries and residences.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdio>

#include "base/prng.h"
#include "catalog/catalog_fixture.h"

namespace kvpool {
namespace {

class CatalogSpaceTest : public CatalogFixture {
 protected:
  struct Mix {
    std::vector<uint32_t> a;
    std::vector<uint32_t> b;
    uint32_t chain = 1;  // blocks
  };

  // Ten times the capacity in stores of both geometries and look-ups, then once the capacity in stores of
  // one.
  void churn_and_refill(const Mix& mix, uint64_t seed) {
    const NamespaceId a = add(mix.a);
    const NamespaceId b = add(mix.b);
    Prng prng(seed);
    uint64_t capacity = 0;
    for (const uint64_t bytes : catalog->usage().device_size_bytes) capacity += bytes;
    uint64_t number = 0;
    double least = 1;
    double sum = 0;
    uint32_t samples = 0;
    for (uint64_t stored = 0; stored < 10 * capacity;) {
      // Times in which one of the two is in demand.
      const bool mostly_a = stored / (2 * capacity) % 2 == 0;
      const NamespaceId ns = prng.chance(mostly_a ? 0.8 : 0.2) ? a : b;
      stored += store_chain(ns, number, mix.chain);
      for (int i = 0; i < 4; ++i) {
        (void)match(prng.chance(0.5) ? a : b, {number - std::min<uint64_t>(number, prng.below(2000))});
      }
      if (stored > 2 * capacity) {
        least = std::min(least, live_fraction());
        sum += live_fraction();
        ++samples;
      }
    }
    catalog->check();
    EXPECT_GE(least, 0.75) << "while both are stored";
    EXPECT_GE(sum / samples, 0.9) << "while both are stored";
    for (uint64_t stored = 0; stored < capacity;) stored += store_chain(b, number, mix.chain);
    catalog->check();
    std::printf("live payload: %.3f on average while both are stored, %.3f after the refill\n", sum / samples,
                live_fraction());
    EXPECT_GE(live_fraction(), 0.95);
    EXPECT_GT(catalog->counters().changed_slabs, 0);
  }

  uint64_t store_chain(NamespaceId ns, uint64_t& number, uint32_t length) {
    BlockId parent = no_block;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < length; ++i) {
      parent = store(ns, number++, parent);
      EXPECT_NE(parent, no_block);
      if (parent == no_block) break;
      bytes += catalog->geometry(ns).block_bytes();
    }
    return bytes;
  }
};

TEST_F(CatalogSpaceTest, ChurnOfTwoGeometriesLeavesNoHoles) {
  open({4096 * MiB, 4096 * MiB, 2048 * MiB, 2048 * MiB}, 20000);
  churn_and_refill({.a = std::vector<uint32_t>(32, 1U << 20), .b = std::vector<uint32_t>(48, 512U << 10)}, 1);
}

TEST_F(CatalogSpaceTest, ChurnOfChainsOfOddSizes) {
  open({4096 * MiB, 4096 * MiB}, 20000);
  std::vector<uint32_t> windows(24, 512U << 10);
  for (size_t s = 0; s < windows.size(); s += 2) windows[s] = 256U << 10;
  churn_and_refill({.a = std::vector<uint32_t>(16, 768U << 10), .b = windows, .chain = 8}, 2);
}

TEST_F(CatalogSpaceTest, ChurnOnSmallDevices) {
  open({64 * MiB, 32 * MiB}, 20000);
  churn_and_refill({.a = std::vector<uint32_t>(8, 64U << 10), .b = std::vector<uint32_t>(12, 24U << 10)}, 3);
}

TEST_F(CatalogSpaceTest, ASlabWithAPinnedBlockStays) {
  open({16 * MiB}, 2000);
  const NamespaceId a = add({64U << 10}, true);
  const NamespaceId b = add({256U << 10}, true);
  std::vector<BlockId> blocks;
  for (uint64_t i = 0; i < 256; ++i) {
    const BlockId block = store(a, i);
    if (block == no_block || catalog->counters().evicted_blocks > 0) break;
    catalog->pin(block);
    blocks.push_back(block);
  }
  ASSERT_GT(blocks.size(), 200);
  EXPECT_EQ(reserve(b, 1000).code, Errc::rejected);
  EXPECT_EQ(catalog->usage().ready_blocks, blocks.size());
  // One block in each run of five stays pinned: no slab can change over, though most of it goes.
  for (size_t i = 0; i < blocks.size(); ++i) {
    if (i % 5 != 0) catalog->unpin(blocks[i]);
  }
  EXPECT_EQ(reserve(b, 1000).code, Errc::rejected);
  for (size_t i = 0; i < blocks.size(); i += 5) EXPECT_TRUE(catalog->is_ready(blocks[i]));
  catalog->check();
  for (size_t i = 0; i < blocks.size(); i += 5) catalog->unpin(blocks[i]);
  EXPECT_NE(store(b, 1000), no_block);
  EXPECT_EQ(catalog->counters().changed_slabs, 1);
  catalog->check();
}

TEST_F(CatalogSpaceTest, ASlabTakesDescendantsAlong) {
  open({16 * MiB}, 2000);
  const NamespaceId a = add({64U << 10});
  const NamespaceId b = add({256U << 10}, true);
  BlockId parent = no_block;
  uint64_t count = 0;
  while (catalog->usage().device_used_bytes[0] < 15 * MiB) parent = store(a, count++, parent);
  for (uint64_t i = 0; i < 16; ++i) {
    ASSERT_NE(store(b, 10000 + i), no_block);
    catalog->check();
  }
  EXPECT_GT(catalog->counters().changed_slabs, 0);
}

// Each new block takes the place of one or two old ones, however full the device is that is away.
TEST_F(CatalogSpaceTest, NothingIsEvictedForADeviceThatIsAway) {
  open({16 * MiB, 16 * MiB}, 2000);
  const NamespaceId ns = add(std::vector<uint32_t>(4, 64U << 10), true);
  uint64_t number = 0;
  while (catalog->counters().evicted_blocks == 0) ASSERT_NE(store(ns, number++), no_block);
  catalog->set_online(DeviceId(0), false);
  const uint64_t evicted = catalog->counters().evicted_blocks;
  for (int i = 0; i < 20; ++i) {
    const auto reserved = reserve(ns, number++, no_block, DeviceId(0));
    ASSERT_EQ(reserved.code, Errc::ok);
    std::array<Place, 4> places;
    catalog->places(reserved.block, 0, places);
    for (const Place& place : places) EXPECT_EQ(place.device, DeviceId(1));
    ASSERT_EQ(commit(reserved.block), Errc::ok);
  }
  EXPECT_LE(catalog->counters().evicted_blocks - evicted, 40U);
  catalog->check();
  catalog->set_online(DeviceId(1), false);
  const uint64_t before = catalog->counters().evicted_blocks;
  EXPECT_EQ(reserve(ns, number++).code, Errc::rejected);
  EXPECT_EQ(catalog->counters().evicted_blocks, before);
  catalog->set_online(DeviceId(0), true);
  EXPECT_NE(store(ns, number), no_block);
}

TEST_F(CatalogSpaceTest, RecordsAreSmall) {
  open({256 * MiB, 256 * MiB, 128 * MiB, 128 * MiB}, 1U << 12, 2, 32);
  const NamespaceId ns = add(std::vector<uint32_t>(32, 4096));
  std::array<bool, 32> wanted{};
  std::fill_n(wanted.begin(), 8, true);
  for (uint64_t i = 0; i < (1U << 12); ++i) {
    const BlockId block = store(ns, i);
    ASSERT_NE(block, no_block);
    catalog->pin(block);
    ASSERT_TRUE(catalog->reserve_second(block, DeviceId(0), wanted));
    catalog->publish_second(block);
    catalog->unpin(block);
  }
  EXPECT_EQ(catalog->usage().ready_blocks, 1U << 12);
  EXPECT_LE(catalog->bytes_per_block(), 256);
  catalog->check();
}

TEST_F(CatalogSpaceTest, SecondResidencesAreFoundOncePublished) {
  open({1 * MiB, 1 * MiB}, 100, 2);
  const NamespaceId ns = add({4096, 4096, 4096});
  const BlockId block = store(ns, 1, no_block, DeviceId(1));
  catalog->pin(block);
  const std::array<bool, 3> wanted{true, false, true};
  ASSERT_TRUE(catalog->reserve_second(block, DeviceId(0), wanted));
  EXPECT_FALSE(catalog->reserve_second(block, DeviceId(0), wanted)) << "it has one";
  std::vector<Place> places(3);
  catalog->places(block, 1, places);
  EXPECT_EQ(places[0].device, no_device);
  std::vector<Place> unpublished(3);
  catalog->places(block, 2, unpublished);
  catalog->publish_second(block);
  catalog->places(block, 1, places);
  EXPECT_EQ(places[0].device, DeviceId(0));
  EXPECT_EQ(places[1].device, no_device);
  EXPECT_EQ(places[2].device, DeviceId(0));
  EXPECT_EQ(places[2].offset, unpublished[2].offset);
  EXPECT_NE(places[2].offset, places[0].offset);
  EXPECT_EQ(catalog->usage().device_used_bytes[0], 2 * 4096);
  catalog->drop_second(block);
  EXPECT_EQ(catalog->usage().device_used_bytes[0], 0);
  ASSERT_TRUE(catalog->reserve_second(block, DeviceId(0), wanted));
  catalog->retire(block);
  EXPECT_EQ(catalog->usage().device_used_bytes[0], 2 * 4096);
  catalog->unpin(block);
  EXPECT_EQ(catalog->usage().device_used_bytes[0], 0);
  catalog->check();
}

// The first device has 16 slots, the second 64.
TEST_F(CatalogSpaceTest, SecondResidencesGiveWayFirstAndOldestFirst) {
  open({64 * KiB, 256 * KiB}, 100, 2);
  const NamespaceId ns = add({4096, 4096, 4096, 4096}, true);
  const std::array<bool, 4> all{true, true, true, true};
  std::vector<BlockId> blocks;
  for (uint64_t i = 0; i < 5; ++i) {
    blocks.push_back(store(ns, i, no_block, DeviceId(1)));
    catalog->pin(blocks.back());
    ASSERT_TRUE(catalog->reserve_second(blocks.back(), DeviceId(0), all));
    catalog->publish_second(blocks.back());
    if (i > 0) catalog->unpin(blocks.back());
  }
  const auto has_second = [&](size_t i) {
    std::vector<Place> places(4);
    catalog->pin(blocks[i]);
    catalog->places(blocks[i], 1, places);
    catalog->unpin(blocks[i]);
    return places[0].device != no_device;
  };
  EXPECT_TRUE(has_second(0)) << "pinned";
  EXPECT_FALSE(has_second(1)) << "the oldest of the others made room for the last";
  EXPECT_TRUE(has_second(2));
  store(ns, 100, no_block, DeviceId(0));
  EXPECT_FALSE(has_second(2));
  EXPECT_TRUE(has_second(3));
  EXPECT_EQ(catalog->counters().spilled_segments, 0);
  EXPECT_EQ(catalog->counters().evicted_blocks, 0);
  catalog->check();
}

}  // namespace
}  // namespace kvpool
