#include "io/memory/arena.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "base/units.h"
#include "io/memory/available_memory.h"

namespace kvpool {
namespace {

TEST(Arena, PartsAreContiguousZeroedAndDisjoint) {
  auto arena = Arena::create({.parts = {{.name = "staging", .bytes = 3 * mib + 5},
                                        {.name = "buffers", .bytes = 4096},
                                        {.name = "memory0", .bytes = 70 * mib}}});
  ASSERT_TRUE(arena) << arena.error().message;
  ASSERT_EQ((*arena)->parts(), 3U);
  EXPECT_EQ((*arena)->part(0).size(), 3 * mib + 5);
  EXPECT_EQ((*arena)->part(1).size(), 4096U);
  EXPECT_EQ((*arena)->part(2).size(), 70 * mib);
  for (size_t i = 0; i < 3; ++i) {
    const std::span<std::byte> part = (*arena)->part(i);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(part.data()) % (2 * mib), 0U);
    EXPECT_TRUE(std::all_of(part.begin(), part.end(), [](std::byte b) { return b == std::byte{0}; }));
    std::memset(part.data(), static_cast<int>(i + 1), part.size());
  }
  for (size_t i = 0; i < 3; ++i) {
    const std::span<std::byte> part = (*arena)->part(i);
    EXPECT_TRUE(std::all_of(part.begin(), part.end(), [&](std::byte b) { return b == std::byte(i + 1); }));
  }
  EXPECT_EQ((*arena)->regions().size(), 3U);
}

TEST(Arena, ChunksCoverEachPartInOrder) {
  auto arena = Arena::create({.parts = {{.name = "memory0", .bytes = 130 * mib}}});
  ASSERT_TRUE(arena) << arena.error().message;
  const std::byte* next = (*arena)->part(0).data();
  uint64_t total = 0;
  for (const ArenaChunk& chunk : (*arena)->chunks(0)) {
    EXPECT_EQ(chunk.base, next);
    EXPECT_EQ(chunk.fd >= 0, chunk.backing != ArenaBacking::anonymous);
    next += chunk.bytes;
    total += chunk.bytes;
  }
  EXPECT_EQ(total, 130 * mib);
  EXPECT_GE((*arena)->chunks(0).size(), 3U);
  EXPECT_EQ((*arena)->report().bytes, 130 * mib);
  EXPECT_LE((*arena)->report().huge_bytes, 130 * mib);
}

TEST(Arena, RefusesMoreThanThereIsBeforeTouchingIt) {
  const uint64_t available = available_memory_bytes();
  if (available == UINT64_MAX) GTEST_SKIP() << "this system does not say how much memory is available";
  auto arena = Arena::create({.parts = {{.name = "memory0", .bytes = available + free_hugetlb_bytes(-1)}}});
  ASSERT_FALSE(arena);
  EXPECT_EQ(arena.error().code, Errc::system);
  EXPECT_NE(arena.error().message.find("available"), std::string::npos) << arena.error().message;
}

TEST(Arena, RefusesNothingAndAbsurdity) {
  auto empty = Arena::create({.parts = {{.name = "memory0", .bytes = 0}}});
  ASSERT_FALSE(empty);
  EXPECT_EQ(empty.error().code, Errc::invalid_argument);
  auto absurd = Arena::create({.parts = {{.name = "memory0", .bytes = UINT64_MAX - 5}}});
  ASSERT_FALSE(absurd);
  EXPECT_EQ(absurd.error().code, Errc::invalid_argument);
}

TEST(Arena, RefusesANodeThatDoesNotExist) {
  auto arena = Arena::create({.parts = {{.name = "memory7", .bytes = mib, .numa_node = 999}}});
  ASSERT_FALSE(arena);
  EXPECT_EQ(arena.error().code, Errc::invalid_argument);
  EXPECT_NE(arena.error().message.find("memory7"), std::string::npos);
  EXPECT_NE(arena.error().message.find("999"), std::string::npos);
  EXPECT_NE(arena.error().message.find("there is " + std::to_string(numa_nodes().front())), std::string::npos)
      << arena.error().message;
}

TEST(Arena, BindsToANodeThatExists) {
  const int node = numa_nodes().front();
  auto arena = Arena::create({.parts = {{.name = "memory0", .bytes = 4 * mib, .numa_node = node}}});
  if (!arena && arena.error().message.find("bound") != std::string::npos) {
    GTEST_SKIP() << arena.error().message;
  }
  ASSERT_TRUE(arena) << arena.error().message;
  EXPECT_EQ((*arena)->part(0).size(), 4 * mib);
}

class OneSource final : public MemorySource {
 public:
  [[nodiscard]] Result<std::span<std::byte>> take(uint64_t bytes, int /*numa_node*/) override {
    EXPECT_EQ(bytes % (2 * mib), 0U);
    if (bytes > most) return fail(Errc::system, "there is no more");
    auto* const memory = static_cast<std::byte*>(std::aligned_alloc(2 * mib, bytes));
    taken += bytes;
    return std::span(memory, bytes);
  }
  void give_back(std::span<std::byte> memory) override {
    taken -= memory.size();
    std::free(memory.data());
  }
  uint64_t most = 8 * mib;
  uint64_t taken = 0;
};

TEST(Arena, TakesItsMemoryFromASourceAndGivesItBack) {
  OneSource source;
  ArenaOptions options{
      .parts = {{.name = "staging", .bytes = 3 * mib}, {.name = "memory0", .bytes = 8 * mib}},
      .source = &source};
  {
    auto arena = Arena::create(options);
    ASSERT_TRUE(arena) << arena.error().message;
    EXPECT_EQ((*arena)->part(0).size(), 3 * mib);
    EXPECT_EQ((*arena)->chunks(1)[0].backing, ArenaBacking::foreign);
    EXPECT_EQ(source.taken, 12 * mib);
  }
  EXPECT_EQ(source.taken, 0U);
  options.parts[1].bytes = 9 * mib;
  auto refused = Arena::create(options);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().message, "memory0: there is no more");
  EXPECT_EQ(source.taken, 0U);
}

TEST(AvailableMemory, ReadsTheKernelsLists) {
  EXPECT_EQ(parse_cpu_list("0"), (std::vector<int>{0}));
  EXPECT_EQ(parse_cpu_list("0-2,5,7-8\n"), (std::vector<int>{0, 1, 2, 5, 7, 8}));
  EXPECT_EQ(parse_cpu_list(""), (std::vector<int>{}));
  EXPECT_EQ(parse_cpu_list("3,x"), (std::vector<int>{3}));
}

TEST(AvailableMemory, IsMoreThanNothing) {
  EXPECT_GT(available_memory_bytes(), 0U);
  EXPECT_GT(available_memory_bytes_of_node(numa_nodes().front()), 0U);
}

}  // namespace
}  // namespace kvpool
