#include "engine/pins.h"

#include <gtest/gtest.h>

#include <array>

namespace kvpool {
namespace {

constexpr ConsumerId alice{0};
constexpr ConsumerId bob{1};

class PinsTest : public testing::Test {
 protected:
  void SetUp() override {
    auto opened = Catalog::open({.devices = {{.size_bytes = 8 << 20}}, .blocks_max = 64, .segments_max = 1});
    ASSERT_TRUE(opened.has_value());
    catalog_ = std::move(*opened);
    ns_ = *catalog_->add_namespace({.name = "test", .segment_bytes = {4096}}, false);
    const std::array plan = {DeviceId(0)};
    const std::array<uint64_t, 1> sums = {1};
    BlockId parent = no_block;
    for (uint32_t i = 0; i < keys_.size(); ++i) {
      keys_[i] = {7, i};
      parent = catalog_->reserve(ns_, keys_[i], parent, Phase(0), i, plan).block;
      ASSERT_EQ(catalog_->commit(parent, sums), Errc::ok);
    }
  }
  PinRef match(Pins& pins) {
    PinRef ref;
    code_ = pins.match(ns_, no_block, keys_, ref);
    return ref;
  }
  // Whether the blocks' space comes back at once when they are removed: nobody pins them.
  bool is_unpinned() {
    catalog_->remove(ns_, keys_[0]);
    return catalog_->usage().retired_blocks == 0;
  }

  std::unique_ptr<Catalog> catalog_;
  NamespaceId ns_;
  Errc code_ = Errc::ok;  // of the last match
  std::array<BlockKey, 4> keys_;
};

TEST_F(PinsTest, TheBlocksStayUntilHolderAndTicketsHaveGone) {
  Pins pins(*catalog_, 2, 2, 4);
  PinRef ticket = match(pins);
  const PinId id = pins.hold(ticket, alice);
  PinRef other = pins.find(id);
  ASSERT_TRUE(other);
  EXPECT_EQ(other.blocks().size(), 4U);
  ticket.reset();
  EXPECT_TRUE(pins.drop(id));
  EXPECT_EQ(pins.held(), 0U);
  EXPECT_EQ(pins.in_use(), 1U);
  EXPECT_FALSE(is_unpinned());
  other.reset();
  EXPECT_EQ(pins.in_use(), 0U);
  EXPECT_EQ(catalog_->usage().retired_blocks, 0U);
}

TEST_F(PinsTest, AStaleIdIsRefused) {
  Pins pins(*catalog_, 1, 0, 4);
  PinId first;
  {
    const PinRef ref = match(pins);
    first = pins.hold(ref, alice);
  }
  ASSERT_NE(first.value, 0U);
  EXPECT_TRUE(pins.drop(first));
  EXPECT_FALSE(pins.drop(first));
  EXPECT_FALSE(pins.find(first));
  // The same place again, under a new generation.
  const PinRef again = match(pins);
  const PinId second = pins.hold(again, alice);
  EXPECT_EQ(static_cast<uint32_t>(first.value), static_cast<uint32_t>(second.value));
  EXPECT_NE(first, second);
  EXPECT_FALSE(pins.find(first));
  EXPECT_TRUE(pins.find(second));
  EXPECT_FALSE(pins.find(PinId(0)));
  EXPECT_FALSE(pins.find(PinId(UINT64_MAX)));
}

// A dropped pin that a ticket still uses is nobody's any more: its id is stale at once.
TEST_F(PinsTest, ADroppedPinCannotBeRedeemedWhileATicketUsesIt) {
  Pins pins(*catalog_, 1, 1, 4);
  const PinRef ticket = match(pins);
  const PinId id = pins.hold(ticket, alice);
  EXPECT_TRUE(pins.drop(id));
  EXPECT_FALSE(pins.find(id));
  EXPECT_EQ(ticket.blocks().size(), 4U);
}

TEST_F(PinsTest, AHolderThatGoesTakesItsOwnPinsAlong) {
  Pins pins(*catalog_, 3, 1, 4);
  std::array<PinId, 3> ids;
  for (size_t i = 0; i < ids.size(); ++i) {
    const PinRef ref = match(pins);
    ids[i] = pins.hold(ref, i == 1 ? bob : alice);
  }
  pins.drop_all(alice);
  EXPECT_EQ(pins.held(), 1U);
  EXPECT_FALSE(pins.find(ids[0]));
  EXPECT_TRUE(pins.find(ids[1]));
  pins.drop_all(bob);
  EXPECT_EQ(pins.in_use(), 0U);
  EXPECT_TRUE(is_unpinned());
}

TEST_F(PinsTest, NoMoreAreHeldThanAllowedAndAFullTablePinsNothing) {
  Pins pins(*catalog_, 1, 1, 4);
  const PinRef held = match(pins);
  ASSERT_NE(pins.hold(held, alice).value, 0U);
  PinRef ticket = match(pins);
  ASSERT_TRUE(ticket);
  EXPECT_EQ(pins.hold(ticket, alice).value, 0U);
  EXPECT_FALSE(match(pins));
  EXPECT_EQ(code_, Errc::busy);
  ticket.reset();
  EXPECT_TRUE(match(pins));
}

}  // namespace
}  // namespace kvpool
