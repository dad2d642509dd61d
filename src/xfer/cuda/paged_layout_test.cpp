#include "xfer/cuda/paged_layout.h"

#include <gtest/gtest.h>

#include <bit>

#include "xfer/cuda/host_regions.h"

namespace kvpool {
namespace {

std::byte* host_at(uint64_t address) { return std::bit_cast<std::byte*>(address); }

const PagedLayer good = {
    .base = host_at(0x1000), .page_stride_bytes = 0x100, .pages = 4, .pieces = {{0x10, 0x20}, {0x80, 0x40}}};

TEST(PagedLayer, EndsWithTheLastPieceOfItsLastPage) {
  EXPECT_EQ(good.page_bytes(), 0x60U);
  EXPECT_EQ(good.extent_bytes(), 0x3c0U);
}

TEST(PagedLayers, ThatCannotBeAreNamed) {
  EXPECT_TRUE(check_layers(std::vector{good}));
  EXPECT_FALSE(check_layers({}));
  const auto refuses = [](auto change) {
    PagedLayer bad = good;
    change(bad);
    const Status checked = check_layers(std::vector{good, bad});
    return !checked && checked.error().code == Errc::invalid_argument &&
           checked.error().message.starts_with("layer 1 ");
  };
  EXPECT_TRUE(refuses([](PagedLayer& layer) { layer.base = nullptr; }));
  EXPECT_TRUE(refuses([](PagedLayer& layer) { layer.pages = 0; }));
  EXPECT_TRUE(refuses([](PagedLayer& layer) { layer.pieces.clear(); }));
  EXPECT_TRUE(refuses([](PagedLayer& layer) { layer.pieces[1].length_bytes = 0; }));
  EXPECT_TRUE(refuses([](PagedLayer& layer) { layer.pieces[1].length_bytes = UINT64_MAX; }));
  EXPECT_TRUE(refuses([](PagedLayer& layer) { layer.pieces[0].offset_bytes = UINT64_MAX; }));
  EXPECT_TRUE(refuses([](PagedLayer& layer) { layer.page_stride_bytes = uint64_t{1} << 47; }));
}

bool contains(const HostRegions& regions, uint64_t address, uint64_t bytes) {
  return regions.contains(host_at(address), bytes);
}

TEST(HostRegions, HoldWhatLiesInOneOfThem) {
  HostRegions regions;
  EXPECT_FALSE(contains(regions, 0x1000, 1));
  regions.add({host_at(0x4000), 0x1000});
  regions.add({host_at(0x1000), 0x1000});
  EXPECT_TRUE(contains(regions, 0x1000, 0x1000));
  EXPECT_TRUE(contains(regions, 0x4fff, 1));
  EXPECT_TRUE(contains(regions, 0x1fff, 1));
  EXPECT_FALSE(contains(regions, 0x1fff, 2));
  EXPECT_FALSE(contains(regions, 0x2000, 1));
  EXPECT_FALSE(contains(regions, 0x0fff, 1));
  EXPECT_FALSE(contains(regions, 0x5000, 1));
  EXPECT_FALSE(contains(regions, 0x1800, UINT64_MAX));
  EXPECT_FALSE(contains(regions, 0x0800, 0x4000));
}

TEST(HostRegions, ThatTouchAreOne) {
  HostRegions regions;
  regions.add({host_at(0x1000), 0x1000});
  regions.add({host_at(0x2000), 0x1000});
  regions.add({host_at(0x2800), 0x100});
  EXPECT_TRUE(contains(regions, 0x1000, 0x2000));
  EXPECT_FALSE(contains(regions, 0x1000, 0x2001));
}

}  // namespace
}  // namespace kvpool
