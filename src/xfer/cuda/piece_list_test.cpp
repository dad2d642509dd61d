#include "xfer/cuda/piece_list.h"

#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <map>
#include <vector>

#include "base/prng.h"

namespace kvpool {
namespace {

std::byte* at(uint64_t address) { return std::bit_cast<std::byte*>(address); }

PagedLayer plain(uint64_t base, uint64_t page_bytes, uint32_t pages) {
  return {.base = at(base), .page_stride_bytes = page_bytes, .pages = pages, .pieces = {{0, page_bytes}}};
}

bool same(const CopyPiece& piece, uint64_t host, uint64_t device, uint64_t bytes) {
  return piece.host == host && piece.device == device && piece.bytes == bytes;
}

TEST(PieceList, HasAPieceForEachThatIsNotANeighbour) {
  const std::vector<PagedLayer> layers = {
      {.base = at(0x10000), .page_stride_bytes = 0x100, .pages = 8, .pieces = {{0x10, 0x20}, {0x80, 0x40}}}};
  const std::vector<PagedSegment> segments = {{at(0x1000), 0, 1, 2}};
  const std::vector<int32_t> pages = {7, 3, 1};
  std::array<CopyPiece, 8> room;
  const auto totals = list_pieces(layers, segments, pages, room);
  ASSERT_TRUE(totals) << totals.error().message;
  EXPECT_EQ(totals->pieces, 4U);
  EXPECT_EQ(totals->bytes, 0xc0U);
  EXPECT_TRUE(same(room[0], 0x1000, 0x10310, 0x20));
  EXPECT_TRUE(same(room[1], 0x1020, 0x10380, 0x40));
  EXPECT_TRUE(same(room[2], 0x1060, 0x10110, 0x20));
  EXPECT_TRUE(same(room[3], 0x1080, 0x10180, 0x40));
}

TEST(PieceList, JoinsPagesThatFollowEachOther) {
  const std::vector<PagedLayer> layers = {plain(0x10000, 0x100, 8), plain(0x20000, 0x100, 8)};
  // The second segment goes on where the first one ends, on both sides.
  const std::vector<PagedSegment> segments = {
      {at(0x1000), 0, 0, 3}, {at(0x1300), 0, 3, 2}, {at(0x1500), 1, 3, 1}};
  const std::vector<int32_t> pages = {2, 3, 4, 5, 0};
  std::array<CopyPiece, 8> room;
  const auto totals = list_pieces(layers, segments, pages, room);
  ASSERT_TRUE(totals);
  EXPECT_EQ(totals->pieces, 3U);
  EXPECT_TRUE(same(room[0], 0x1000, 0x10200, 0x400));
  EXPECT_TRUE(same(room[1], 0x1400, 0x10000, 0x100));
  EXPECT_TRUE(same(room[2], 0x1500, 0x20500, 0x100));
}

// Neighbours on both sides all of them, and one in another layer.
TEST(PieceList, KeepsApartWhatIsChecked) {
  const std::vector<PagedLayer> layers = {plain(0x10000, 0x400, 16), plain(0x20000, 0x400, 16)};
  std::vector<PagedSegment> segments = {
      {at(0x1000), 0, 0, 2}, {at(0x1800), 0, 2, 3}, {at(0x2400), 0, 5, 1}, {at(0x1000), 1, 0, 3}};
  segments[1].check = PagedCheck{.seed = 5, .sum = 6};
  segments[3].check = PagedCheck{.seed = 7, .sum = 8};
  std::vector<int32_t> pages = {2, 3, 4, 5, 6, 7};
  std::array<CopyPiece, 16> room;
  auto totals = list_pieces(layers, segments, pages, room);
  ASSERT_TRUE(totals);
  EXPECT_EQ(totals->pieces, 4U);
  totals->pieces = cut_pieces(room, totals->pieces, 0x800).value();
  EXPECT_EQ(totals->pieces, 6U);
  std::array<CheckedPieces, 4> checks;
  ASSERT_EQ(list_checks(layers, segments, pages, std::span(room).first(totals->pieces), checks), 2U);
  EXPECT_EQ(checks[0].seed, 5U);
  EXPECT_EQ(checks[0].sum, 6U);
  EXPECT_EQ(checks[0].first, 1U);
  EXPECT_EQ(checks[0].count, 2U);
  EXPECT_EQ(checks[1].seed, 7U);
  EXPECT_EQ(checks[1].first, 4U);
  EXPECT_EQ(checks[1].count, 2U);
  EXPECT_TRUE(same(room[1], 0x1800, 0x11000, 0x800));
  EXPECT_TRUE(same(room[5], 0x1800, 0x21000, 0x400));

  // A page of the first one is not there: what is listed of it is no check's.
  pages[1] = -1;
  totals = list_pieces(layers, std::span(segments).first(2), pages, room);
  ASSERT_TRUE(totals);
  ASSERT_EQ(list_checks(layers, std::span(segments).first(2), pages, std::span(room).first(2), checks), 1U);
  EXPECT_EQ(checks[0].first, 1U);
  EXPECT_EQ(checks[0].count, 1U);
  EXPECT_FALSE(list_pieces(layers, segments, pages, room)) << "of the last one";
}

TEST(PieceList, RefusesACheckThatNoKernelMakes) {
  PagedLayer layer = plain(0x10000, 0x400, 16);
  EXPECT_TRUE(layer.can_be_checked());
  std::vector<PagedSegment> segments = {{at(0x1000), 0, 0, 1}};
  segments[0].check = PagedCheck{};
  const std::vector<int32_t> pages = {2};
  std::array<CopyPiece, 16> room;
  EXPECT_TRUE(list_pieces(std::span(&layer, 1), segments, pages, room));
  for (const PagedPiece& odd : {PagedPiece{0, 0x3f0}, PagedPiece{8, 0x400}}) {
    layer.pieces = {odd};
    EXPECT_FALSE(layer.can_be_checked());
    EXPECT_FALSE(list_pieces(std::span(&layer, 1), segments, pages, room));
  }
  layer = plain(0x10008, 0x400, 16);
  EXPECT_FALSE(layer.can_be_checked());
  segments[0].pages_count = 0;
  layer = plain(0x10000, 0x400, 16);
  EXPECT_FALSE(list_pieces(std::span(&layer, 1), segments, pages, room)) << "nothing to sum";
}

TEST(PieceList, PassesOverPagesThatAreNotThere) {
  const std::vector<PagedLayer> layers = {plain(0x10000, 0x100, 8)};
  const std::vector<PagedSegment> segments = {{at(0x1000), 0, 0, 4}};
  const std::vector<int32_t> pages = {-1, 2, -7, 3};
  std::array<CopyPiece, 8> room;
  const auto totals = list_pieces(layers, segments, pages, room);
  ASSERT_TRUE(totals);
  EXPECT_EQ(totals->pieces, 2U);
  EXPECT_EQ(totals->bytes, 0x200U);
  EXPECT_TRUE(same(room[0], 0x1100, 0x10200, 0x100));
  EXPECT_TRUE(same(room[1], 0x1300, 0x10300, 0x100));
}

TEST(PieceList, RefusesWhatIsOutside) {
  const std::vector<PagedLayer> layers = {plain(0x10000, 0x100, 8)};
  std::array<CopyPiece, 2> room;
  const auto code = [&](const PagedSegment& segment, const std::vector<int32_t>& pages) {
    const auto totals = list_pieces(layers, std::array{segment}, pages, room);
    return totals ? Errc::ok : totals.error().code;
  };
  EXPECT_EQ(code({at(0x1000), 0, 0, 1}, {7}), Errc::ok);
  EXPECT_EQ(code({at(0x1000), 0, 0, 1}, {8}), Errc::invalid_argument);
  EXPECT_EQ(code({at(0x1000), 1, 0, 1}, {0}), Errc::invalid_argument);
  EXPECT_EQ(code({at(0x1000), 0, 0, 2}, {0}), Errc::invalid_argument);
  EXPECT_EQ(code({at(0x1000), 0, 2, 0}, {0}), Errc::invalid_argument);
  EXPECT_EQ(code({at(0x1000), 0, UINT32_MAX, UINT32_MAX}, {0}), Errc::invalid_argument);
  EXPECT_EQ(code({at(0x1000), 0, 0, 3}, {1, 3, 5}), Errc::too_large);
  EXPECT_EQ(code({at(0x1000), 0, 0, 0}, {}), Errc::ok);
}

TEST(Pieces, AreCutInTheirOrder) {
  std::array<CopyPiece, 8> room = {{{0x1000, 0x9000, 10}, {0x2000, 0xa000, 64}, {0x3000, 0xb000, 150}}};
  const auto count = cut_pieces(room, 3, 64);
  ASSERT_EQ(count, 5U);
  EXPECT_TRUE(same(room[0], 0x1000, 0x9000, 10));
  EXPECT_TRUE(same(room[1], 0x2000, 0xa000, 64));
  EXPECT_TRUE(same(room[2], 0x3000, 0xb000, 64));
  EXPECT_TRUE(same(room[3], 0x3040, 0xb040, 64));
  EXPECT_TRUE(same(room[4], 0x3080, 0xb080, 22));
}

TEST(Pieces, ThatDoNotFitWhenCutStayAsTheyAre) {
  std::array<CopyPiece, 2> room = {{{0x1000, 0x9000, 100}, {0x2000, 0xa000, 100}}};
  EXPECT_FALSE(cut_pieces(room, 2, 64));
  EXPECT_TRUE(same(room[0], 0x1000, 0x9000, 100));
  EXPECT_TRUE(same(room[1], 0x2000, 0xa000, 100));
  EXPECT_EQ(cut_pieces(room, 2, 100), 2U);
  EXPECT_EQ(cut_pieces(room, 0, 1), 0U);
}

TEST(Pieces, ThatAreNeighboursInHostMemoryAreOneRun) {
  const std::vector<CopyPiece> pieces = {
      {0x1000, 0x9000, 0x10}, {0x1010, 0x5000, 0x20}, {0x1030, 0x7000, 0x10}, {0x2000, 0x8000, 0x10}};
  const HostRun all = host_run(pieces, 1000);
  EXPECT_EQ(all.host, 0x1000U);
  EXPECT_EQ(all.bytes, 0x40U);
  EXPECT_EQ(all.pieces, 3U);
  EXPECT_EQ(host_run(pieces, 0x30).pieces, 2U);
  EXPECT_EQ(host_run(pieces, 1).pieces, 1U) << "one at least";
}

// Random layers and segments, and every byte that they name: host address to GPU address.
struct RandomBatch {
  explicit RandomBatch(Prng& random) {
    for (uint64_t i = 0; i < 3; ++i) add_layer(random, 0x100000 * (i + 1));
    for (uint32_t i = 0; i < 12; ++i) add_segment(random);
  }

  void add_layer(Prng& random, uint64_t base) {
    PagedLayer layer{.base = at(base), .pages = 10};
    uint64_t offset = 0;
    for (uint64_t piece = random.between(1, 3); piece > 0; --piece) {
      offset += random.below(2) * 3;
      layer.pieces.push_back({offset, random.between(1, 9)});
      offset += layer.pieces.back().length_bytes;
    }
    layer.page_stride_bytes = offset + random.below(2) * 5;
    layers.push_back(layer);
  }

  void add_segment(Prng& random) {
    const auto number = static_cast<uint32_t>(random.below(3));
    const PagedLayer& layer = layers[number];
    const auto count = static_cast<uint32_t>(random.below(5));
    segments.push_back({at(host), number, static_cast<uint32_t>(pages.size()), count});
    for (uint32_t i = 0; i < count; ++i) {
      pages.push_back(static_cast<int32_t>(random.below(11)) - 1);
      const uint64_t page = reinterpret_cast<uint64_t>(layer.base) +
                            static_cast<uint64_t>(pages.back()) * layer.page_stride_bytes;
      for (const PagedPiece& piece : layer.pieces) {
        for (uint64_t byte = 0; byte < piece.length_bytes; ++byte, ++host) {
          if (pages.back() >= 0) wanted[host] = page + piece.offset_bytes + byte;
        }
      }
    }
    host += random.below(2) * 7;
  }

  std::vector<PagedLayer> layers;
  std::vector<PagedSegment> segments;
  std::vector<int32_t> pages;
  std::map<uint64_t, uint64_t> wanted;
  uint64_t host = 0x1000;
};

TEST(PieceList, OfRandomSegmentsNamesEveryByteOnce) {
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    SCOPED_TRACE(seed);
    Prng random(seed);
    const RandomBatch batch(random);
    std::array<CopyPiece, 2000> room;
    const auto totals = list_pieces(batch.layers, batch.segments, batch.pages, room);
    ASSERT_TRUE(totals);
    EXPECT_EQ(totals->bytes, batch.wanted.size());
    const auto count = cut_pieces(room, totals->pieces, random.between(1, 12));
    ASSERT_TRUE(count);
    std::map<uint64_t, uint64_t> listed;
    uint64_t bytes = 0;
    for (const CopyPiece& piece : std::span(room).first(*count)) {
      for (uint64_t byte = 0; byte < piece.bytes; ++byte) listed[piece.host + byte] = piece.device + byte;
      bytes += piece.bytes;
    }
    EXPECT_EQ(listed, batch.wanted);
    EXPECT_EQ(bytes, batch.wanted.size());
  }
}

}  // namespace
}  // namespace kvpool
