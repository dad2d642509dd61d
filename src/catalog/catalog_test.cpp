#include "catalog/catalog.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "catalog/catalog_fixture.h"

namespace {
std::atomic<uint64_t> allocations{0};
}  // namespace

void* operator new(size_t bytes) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* memory = std::malloc(bytes)) return memory;
  std::abort();
}
// Inlined, they would look to the compiler like a mismatch with new.
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace kvpool {
namespace {

using CatalogTest = CatalogFixture;

TEST_F(CatalogTest, ABlockIsFoundFromCommitOn) {
  open({1 * MiB});
  const NamespaceId ns = add({4096, 4096});
  const auto result = reserve(ns, 1);
  ASSERT_EQ(result.code, Errc::ok);
  EXPECT_FALSE(has(ns, 1));
  EXPECT_EQ(match(ns, {1}), 0);
  EXPECT_EQ(reserve(ns, 1).code, Errc::busy);
  EXPECT_EQ(commit(result.block), Errc::ok);
  EXPECT_EQ(match(ns, {1}), 1);
  const auto again = reserve(ns, 1);
  EXPECT_EQ(again.code, Errc::ok);
  EXPECT_TRUE(again.existing);
  EXPECT_EQ(again.block, result.block);
  EXPECT_EQ(catalog->checksums(result.block).size(), 2);
  EXPECT_EQ(catalog->checksums(result.block)[1], result.block.value);
  catalog->check();
}

TEST_F(CatalogTest, AnAbandonedBlockLeavesNothing) {
  open({1 * MiB});
  const NamespaceId ns = add({4096, 4096});
  const auto result = reserve(ns, 1);
  const uint32_t generation = catalog->generation(result.block);
  catalog->abandon(result.block);
  EXPECT_FALSE(has(ns, 1));
  EXPECT_GT(catalog->generation(result.block), generation);
  EXPECT_EQ(catalog->usage().device_used_bytes[0], 0);
  EXPECT_EQ(reserve(ns, 1).code, Errc::ok);
  catalog->check();
}

TEST_F(CatalogTest, NamespacesHaveKeysOfTheirOwn) {
  open({1 * MiB});
  const NamespaceId a = add({4096});
  const NamespaceId b = add({4096});
  const BlockId block = store(a, 1);
  EXPECT_FALSE(has(b, 1));
  EXPECT_NE(store(b, 1), block);
  EXPECT_EQ(reserve(b, 2, block).code, Errc::rejected) << "a parent from another namespace";
}

TEST_F(CatalogTest, MatchFollowsTheChain) {
  open({1 * MiB});
  const NamespaceId ns = add({4096});
  const BlockId root = store(ns, 1);
  const BlockId child = store(ns, 2, root);
  store(ns, 3, child);
  store(ns, 4, root);
  EXPECT_EQ(match(ns, {1, 2, 3}), 3);
  EXPECT_EQ(match(ns, {1, 2, 4}), 2) << "4 does not follow 2";
  EXPECT_EQ(match(ns, {2, 3}), 0) << "2 is no root";
  EXPECT_EQ(match(ns, {2, 3}, root), 2);
  EXPECT_EQ(match(ns, {1, 2, 9, 3}), 2);
  EXPECT_EQ(match(ns, {}), 0);
}

TEST_F(CatalogTest, MatchOfALongRunStopsWhereItEnds) {
  open({4 * MiB});
  const NamespaceId ns = add({4096}, true);
  std::vector<uint64_t> numbers;
  for (uint64_t i = 0; i < 300; ++i) {
    store(ns, i);
    numbers.push_back(i);
  }
  for (const size_t gap : {0U, 1U, 31U, 32U, 33U, 63U, 64U, 95U, 96U, 299U}) {
    auto with_gap = numbers;
    with_gap[gap] = 1000 + gap;
    EXPECT_EQ(match(ns, with_gap), gap);
  }
  EXPECT_EQ(match(ns, numbers), 300);
}

// Room for eight blocks of one segment.
TEST_F(CatalogTest, TheLeastRecentlyUsedGoesFirst) {
  open({32 * KiB});
  const NamespaceId ns = add({4096}, true);
  for (uint64_t i = 0; i < 8; ++i) ASSERT_NE(store(ns, i), no_block);
  EXPECT_EQ(match(ns, {0}), 1);
  EXPECT_EQ(match(ns, {2}), 1);
  store(ns, 8);
  EXPECT_FALSE(has(ns, 1));
  store(ns, 9);
  EXPECT_FALSE(has(ns, 3));
  for (const uint64_t kept : {0, 2, 4, 5, 6, 7, 8, 9}) EXPECT_TRUE(has(ns, kept)) << kept;
  EXPECT_EQ(catalog->counters().evicted_blocks, 2);
  catalog->check();
}

TEST_F(CatalogTest, LeavesGoBeforeTheirParents) {
  open({32 * KiB});
  const NamespaceId ns = add({4096});
  BlockId chain = no_block;
  for (uint64_t i = 0; i < 4; ++i) chain = store(ns, i, chain);
  for (uint64_t i = 4; i < 8; ++i) store(ns, i);
  // The cold chain goes from its end, ahead of the roots that are newer.
  for (uint64_t i = 0; i < 4; ++i) {
    store(ns, 10 + i);
    EXPECT_FALSE(has(ns, 3 - i)) << i;
    for (uint64_t above = 0; above < 3 - i; ++above) EXPECT_TRUE(has(ns, above));
    catalog->check();
  }
  for (uint64_t i = 4; i < 8; ++i) EXPECT_TRUE(has(ns, i));
}

TEST_F(CatalogTest, AParentHasAnAgeOfItsOwn) {
  open({32 * KiB});
  const NamespaceId ns = add({4096});
  const BlockId root = store(ns, 0);
  store(ns, 1, root);
  for (uint64_t i = 2; i < 8; ++i) store(ns, i);
  EXPECT_EQ(match(ns, {0}), 1);  // the root alone
  store(ns, 8);
  EXPECT_FALSE(has(ns, 1));
  for (uint64_t i = 0; i < 6; ++i) {
    store(ns, 20 + i);
    EXPECT_FALSE(has(ns, 2 + i));
    EXPECT_TRUE(has(ns, 0)) << "it was used after " << 2 + i;
  }
  store(ns, 30);
  EXPECT_FALSE(has(ns, 0));
}

TEST_F(CatalogTest, PinnedBlocksStay) {
  open({32 * KiB});
  const NamespaceId ns = add({4096}, true);
  std::vector<BlockId> blocks;
  for (uint64_t i = 0; i < 8; ++i) blocks.push_back(store(ns, i));
  for (const BlockId block : blocks) catalog->pin(block);
  EXPECT_EQ(reserve(ns, 8).code, Errc::rejected);
  catalog->check();
  catalog->unpin(blocks[5]);
  EXPECT_NE(store(ns, 8), no_block);
  EXPECT_FALSE(has(ns, 5));
}

TEST_F(CatalogTest, ARetiredBlockKeepsItsBytesWhileItIsPinned) {
  open({32 * KiB});
  const NamespaceId ns = add({4096, 4096});
  const BlockId block = store(ns, 1);
  catalog->pin(block);
  catalog->pin(block);
  std::vector<Place> before(2);
  catalog->places(block, 0, before);
  const uint32_t generation = catalog->generation(block);
  catalog->retire(block);
  EXPECT_FALSE(has(ns, 1));
  EXPECT_EQ(catalog->usage().retired_blocks, 1);
  for (uint64_t i = 2; i < 10; ++i) {
    const BlockId other = store(ns, i);
    ASSERT_NE(other, no_block);
    catalog->pin(other);
    std::vector<Place> places(2);
    catalog->places(other, 0, places);
    for (const Place& place : places) {
      for (const Place& kept : before) EXPECT_NE(place.offset, kept.offset);
    }
    catalog->unpin(other);
  }
  EXPECT_NE(store(ns, 1), no_block) << "the key is free again at once";
  catalog->unpin(block);
  EXPECT_EQ(catalog->generation(block), generation);
  catalog->unpin(block);
  EXPECT_GT(catalog->generation(block), generation);
  EXPECT_EQ(catalog->usage().retired_blocks, 0);
  catalog->check();
}

TEST_F(CatalogTest, RemovalTakesDescendantsAlong) {
  open({1 * MiB});
  const NamespaceId ns = add({4096});
  const BlockId root = store(ns, 0);
  const BlockId middle = store(ns, 1, root);
  store(ns, 2, middle);
  store(ns, 3, store(ns, 4, middle));
  store(ns, 5, root);
  const auto writing = reserve(ns, 6, middle);
  EXPECT_EQ(catalog->remove(ns, key(1)), 4);
  EXPECT_EQ(catalog->counters().removed_blocks, 4);
  EXPECT_TRUE(has(ns, 0) && has(ns, 5));
  EXPECT_EQ(commit(writing.block), Errc::rejected);
  EXPECT_FALSE(has(ns, 6));
  EXPECT_EQ(catalog->usage().ready_blocks, 2);
  EXPECT_EQ(catalog->usage().device_used_bytes[0], 2 * 4096);
  EXPECT_EQ(catalog->remove(ns, key(1)), 0);
  EXPECT_EQ(reserve(ns, 7, middle).code, Errc::rejected);
  catalog->check();
}

TEST_F(CatalogTest, TheParentOfANewBlockIsNotEvictedForIt) {
  open({32 * KiB});
  const NamespaceId ns = add({4096});
  BlockId chain = no_block;
  for (uint64_t i = 0; i < 8; ++i) chain = store(ns, i, chain);
  EXPECT_EQ(reserve(ns, 8, chain).code, Errc::rejected) << "all that could go are its ancestors";
  EXPECT_TRUE(has(ns, 7));
  catalog->check();
}

// So that a chain of which one device has no room still comes from all others at once, layer by layer.
TEST_F(CatalogTest, SpillsToTheOthersByTheirShares) {
  constexpr uint32_t segments = 32;
  constexpr uint32_t chain = 64;
  const std::vector<double> shares = {0.77, 0.14, 0.07, 0.02};
  const Placement placement(shares);
  open({256 * KiB, 64 * MiB, 64 * MiB, 64 * MiB}, 1000, 1, 64, shares);
  const NamespaceId ns = add(std::vector<uint32_t>(segments, 4096));
  std::vector<DeviceId> plan(segments);
  std::vector<Place> places(segments);
  for (uint32_t root = 0; root < 8; ++root) {
    std::array<uint32_t, 4> on{};
    std::array<uint32_t, 4> in_two_layers{};
    BlockId parent = no_block;
    for (uint32_t depth = 0; depth < chain; ++depth) {
      const Phase phase(0x9e3779b9 * root);
      placement.plan(phase, depth, plan);
      const BlockKey own = key(1000 * root + depth);
      parent = catalog->reserve(ns, own, parent, phase, depth, plan).block;
      ASSERT_NE(parent, no_block);
      ASSERT_EQ(commit(parent), Errc::ok);
      catalog->pin(parent);
      catalog->places(parent, 0, places);
      catalog->unpin(parent);
      for (uint32_t s = 0; s < segments; ++s) {
        ++on[places[s].device.value];
        if (s / 2 == 5) ++in_two_layers[places[s].device.value];
      }
    }
    if (root == 0) continue;  // memory was not full from the first block on
    EXPECT_EQ(on[0], 0);
    EXPECT_NEAR(on[1], 14.0 / 23 * segments * chain, 0.01 * segments * chain);
    EXPECT_NEAR(on[2], 7.0 / 23 * segments * chain, 0.01 * segments * chain);
    EXPECT_NEAR(on[3], 2.0 / 23 * segments * chain, 0.01 * segments * chain);
    EXPECT_NEAR(in_two_layers[1], 14.0 / 23 * 2 * chain, 0.05 * 2 * chain);
    EXPECT_NEAR(in_two_layers[2], 7.0 / 23 * 2 * chain, 0.05 * 2 * chain);
    EXPECT_NEAR(in_two_layers[3], 2.0 / 23 * 2 * chain, 0.05 * 2 * chain);
  }
  EXPECT_EQ(catalog->counters().evicted_blocks, 0);
  catalog->check();
}

TEST_F(CatalogTest, SpillsWhereOnlyDevicesWithoutAShareHaveRoomToTheOneWithMost) {
  open({64 * KiB, 256 * KiB, 1 * MiB}, 1024, 1, 64, {1, 0, 0});
  const NamespaceId ns = add(std::vector<uint32_t>(8, 4096));
  store(ns, 0, no_block, DeviceId(0));
  store(ns, 1, no_block, DeviceId(0));
  EXPECT_EQ(catalog->counters().spilled_segments, 0);
  const BlockId spilled = store(ns, 2, no_block, DeviceId(0));
  EXPECT_EQ(catalog->counters().spilled_segments, 8);
  EXPECT_EQ(catalog->counters().spilled_bytes, 8 * 4096);
  EXPECT_EQ(catalog->counters().evicted_blocks, 0);
  catalog->pin(spilled);
  std::vector<Place> places(8);
  catalog->places(spilled, 0, places);
  for (const Place& place : places) EXPECT_EQ(place.device, DeviceId(2));
  catalog->check();
}

TEST_F(CatalogTest, EvictsForThePlanWhenNothingHasRoom) {
  open({256 * KiB, 256 * KiB});
  const NamespaceId ns = add(std::vector<uint32_t>(8, 4096));
  for (uint64_t i = 0; i < 16; ++i) ASSERT_NE(store(ns, i), no_block);
  const BlockId block = store(ns, 100, no_block, DeviceId(1));
  ASSERT_NE(block, no_block);
  EXPECT_EQ(catalog->counters().spilled_segments, 0);
  EXPECT_EQ(catalog->counters().evicted_blocks, 2) << "each has half of its segments there";
  catalog->check();
}

TEST_F(CatalogTest, TakesARecordFromTheColdestWhenTheyAreShort) {
  open({1 * MiB}, 4);
  const NamespaceId ns = add({4096}, true);
  for (uint64_t i = 0; i < 10; ++i) EXPECT_NE(store(ns, i), no_block);
  EXPECT_EQ(catalog->usage().ready_blocks, 4);
  EXPECT_TRUE(has(ns, 9) && has(ns, 6));
  catalog->check();
}

TEST_F(CatalogTest, ABlockThatNoPoolCouldHoldEvictsNothing) {
  open({64 * KiB});
  const NamespaceId small = add({4096});
  const NamespaceId large = add(std::vector<uint32_t>(40, 4096));
  for (uint64_t i = 0; i < 16; ++i) store(small, i);
  EXPECT_EQ(reserve(large, 100).code, Errc::rejected);
  EXPECT_EQ(catalog->usage().ready_blocks, 16);
}

TEST_F(CatalogTest, RefusesGeometriesThatDoNotFit) {
  open({1 * MiB}, 100, 1, 4);
  EXPECT_EQ(catalog->add_namespace(geometry({4096, 4096, 4096, 4096, 4096}), false).error().code,
            Errc::invalid_argument);
  EXPECT_EQ(catalog->add_namespace(geometry({}), false).error().code, Errc::invalid_argument);
  const auto refused = catalog->add_namespace(geometry({4096, 2U << 20}), false);
  ASSERT_FALSE(refused.has_value());
  EXPECT_NE(refused.error().message.find("2097152"), std::string::npos) << refused.error().message;
  EXPECT_EQ(catalog->namespaces(), 0);
  EXPECT_FALSE(Catalog::open({}).has_value());
}

TEST_F(CatalogTest, NothingAllocatesAfterOpen) {
  open({512 * KiB, 512 * KiB}, 100, 2);
  const NamespaceId a = add(std::vector<uint32_t>(8, 16384));
  const NamespaceId b = add(std::vector<uint32_t>(3, 24576));
  const std::vector<DeviceId> plan_a(8, DeviceId(0));
  const std::vector<DeviceId> plan_b(3, DeviceId(1));
  const std::vector<uint64_t> sums(8, 1);
  std::vector<Place> places(8);
  std::array<bool, 8> wanted{true, true};
  std::array<BlockId, 1> out{};
  const uint64_t before = allocations.load();
  for (uint64_t i = 0; i < 300; ++i) {
    const NamespaceId ns = i % 3 == 0 ? b : a;
    const auto& plan = i % 3 == 0 ? plan_b : plan_a;
    const auto result = catalog->reserve(ns, key(i), no_block, Phase(0), 0, plan);
    if (result.code != Errc::ok) continue;
    (void)catalog->commit(result.block, std::span(sums).first(plan.size()));
    const std::array<BlockKey, 1> keys{key(i)};
    (void)catalog->match(ns, no_block, keys, out);
    catalog->pin(result.block);
    if (catalog->reserve_second(result.block, DeviceId(0), std::span(wanted).first(plan.size()))) {
      catalog->publish_second(result.block);
    }
    catalog->places(result.block, 0, places);
    catalog->unpin(result.block);
    if (i % 7 == 0) catalog->retire(result.block);
  }
  EXPECT_EQ(allocations.load(), before);
  EXPECT_GT(catalog->counters().changed_slabs, 0);
  EXPECT_GT(catalog->counters().evicted_blocks, 0);
  catalog->check();
}

}  // namespace
}  // namespace kvpool
