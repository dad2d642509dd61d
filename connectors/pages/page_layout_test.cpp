#include "connectors/pages/page_layout.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>

namespace kvpool::pages {
namespace {

using Numbers = std::vector<uint64_t>;

std::optional<std::vector<Piece>> pieces(const Numbers& shape, const Numbers& strides, uint64_t element = 2) {
  return page_pieces(shape, strides, element);
}

TEST(PagePieces, OfAPageWithoutGapsAreOne) {
  // vLLM on a CPU: heads, tokens, keys and values.
  EXPECT_EQ(pieces({2, 128, 128}, {32768, 256, 2}), (std::vector<Piece>{{0, 65536}}));
  // On a GPU, tokens outside of heads: the same bytes in another order.
  EXPECT_EQ(pieces({8, 16, 256}, {512, 4096, 2}), (std::vector<Piece>{{0, 65536}}));
  EXPECT_EQ(pieces({}, {}, 4), (std::vector<Piece>{{0, 4}}));
  EXPECT_EQ(pieces({1, 4, 1}, {999, 2, 999}), (std::vector<Piece>{{0, 8}}));
}

TEST(PagePieces, FollowEachOtherByAddress) {
  // Keys and values far apart, heads with a gap between them.
  EXPECT_EQ(pieces({2, 2, 4}, {1000, 100, 2}), (std::vector<Piece>{{0, 8}, {100, 8}, {1000, 8}, {1100, 8}}));
  EXPECT_EQ(pieces({2, 2, 4}, {100, 1000, 2}), (std::vector<Piece>{{0, 8}, {100, 8}, {1000, 8}, {1100, 8}}));
  // A gap after every element.
  EXPECT_EQ(pieces({3}, {4}), (std::vector<Piece>{{0, 2}, {4, 2}, {8, 2}}));
}

TEST(PagePieces, AreNoneWhereElementsOverlap) {
  EXPECT_FALSE(pieces({4}, {1}));
  EXPECT_FALSE(pieces({2, 4}, {4, 2}));
  EXPECT_FALSE(pieces({2}, {0}));
  EXPECT_FALSE(pieces({0}, {2}));
  EXPECT_FALSE(pieces({2}, {2, 2}));
  EXPECT_FALSE(pieces({1ULL << 40, 1ULL << 40}, {1ULL << 40, 2}));
  EXPECT_FALSE(pieces({2}, {2}, 0));
}

TEST(Pages, GatherAndScatterAreInverse) {
  std::array<std::byte, 4 * 64> memory;
  for (size_t i = 0; i < memory.size(); ++i) memory[i] = std::byte(i);
  const Layer layer{.base = memory.data(), .page_stride_bytes = 64, .pages = 4, .pieces = {{0, 8}, {32, 4}}};
  EXPECT_EQ(layer.page_bytes(), 12U);
  std::array<std::byte, 24> segment{};
  gather(layer, std::array<int32_t, 2>{3, 1}, segment.data());
  EXPECT_EQ(segment[0], std::byte(3 * 64));
  EXPECT_EQ(segment[8], std::byte(3 * 64 + 32));
  EXPECT_EQ(segment[12], std::byte(64));
  const auto before = memory;
  for (std::byte& byte : memory) byte = std::byte{0xee};
  scatter(layer, std::array<int32_t, 2>{3, 1}, segment.data());
  for (size_t i = 0; i < memory.size(); ++i) {
    const size_t page = i / 64;
    const size_t offset = i % 64;
    const bool stored = (page == 3 || page == 1) && (offset < 8 || (offset >= 32 && offset < 36));
    EXPECT_EQ(memory[i], stored ? before[i] : std::byte{0xee}) << i;
  }
}

TEST(Pages, ThatAreNotThereKeepTheirPlace) {
  std::array<std::byte, 2 * 8> memory{};
  const Layer layer{.base = memory.data(), .page_stride_bytes = 8, .pages = 2, .pieces = {{0, 8}}};
  std::array<std::byte, 16> segment;
  std::memset(segment.data(), 0x55, segment.size());
  gather(layer, std::array<int32_t, 2>{-1, 0}, segment.data());
  EXPECT_EQ(segment[7], std::byte{0x55});
  EXPECT_EQ(segment[8], std::byte{0});
  std::memset(segment.data(), 0x55, segment.size());
  scatter(layer, std::array<int32_t, 2>{-1, 1}, segment.data());
  EXPECT_EQ(memory[0], std::byte{0});
  EXPECT_EQ(memory[8], std::byte{0x55});
}

}  // namespace
}  // namespace kvpool::pages
