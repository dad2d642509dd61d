#include "bench/client.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "bench/payload.h"
#include "bench/testing/fake_pool.h"

namespace kvpool::bench {
namespace {

constexpr uint64_t region_bytes = 1 << 20;

class Client : public ::testing::Test {
 protected:
  void SetUp() override {
    fake_pool() = {};
    pool_ = std::make_unique<Pool>(*Pool::open("fake"));
    ns_ = *pool_->open_namespace(
        {.name = "n", .block_tokens = 512, .segment_bytes = {4096, 8192}, .window = {}}, false);
    consumer_ = std::make_unique<Consumer>(*Consumer::open(*pool_, "test", region_bytes));
    keys_ = *consumer_->allocate_array<kvpool_key>(1);
    addresses_ = *consumer_->allocate_array<uint64_t>(2);
    first_ = *consumer_->allocate(4096);
    second_ = *consumer_->allocate(8192);
    addresses_[0] = consumer_->address(first_.data());
    addresses_[1] = consumer_->address(second_.data());
    keys_[0] = to_api(key_);
  }

  [[nodiscard]] Request store() const {
    return Request(RequestKind::store, ns_).keys(keys_).buffers(addresses_);
  }
  [[nodiscard]] Request match() const {
    return Request(RequestKind::match, ns_).keys(keys_).flags(KVPOOL_PIN);
  }

  const BlockKey key_{1, 2};
  std::unique_ptr<Pool> pool_;  // outlives the consumer
  std::unique_ptr<Consumer> consumer_;
  NamespaceId ns_;
  std::span<kvpool_key> keys_;
  std::span<uint64_t> addresses_;
  std::span<std::byte> first_, second_;
};

TEST_F(Client, WhatWasStoredComesBack) {
  fill_payload(first_, key_, 0);
  fill_payload(second_, key_, 1);
  const auto stored = consumer_->run(store());
  ASSERT_TRUE(stored);
  EXPECT_EQ(stored->blocks, 1);
  const auto matched = consumer_->run(match());
  ASSERT_TRUE(matched);
  ASSERT_EQ(matched->blocks, 1);
  std::ranges::fill(first_, std::byte{0});
  const auto retrieved =
      consumer_->run(Request(RequestKind::retrieve, ns_).pinned(matched->pin, 0, 1).buffers(addresses_));
  ASSERT_TRUE(retrieved);
  EXPECT_EQ(retrieved->code, Errc::ok);
  EXPECT_EQ(retrieved->bytes, 4096 + 8192);
  EXPECT_TRUE(payload_equals(first_, key_, 0));
  EXPECT_TRUE(payload_equals(second_, key_, 1));
  EXPECT_GE(retrieved->result_at, retrieved->submitted_at);
  EXPECT_GE(retrieved->released_at, retrieved->result_at);
  ASSERT_TRUE(consumer_->run(Request(RequestKind::unpin, ns_).pin(matched->pin)));
  EXPECT_EQ(fake_pool().pins_held, 0);
}

TEST_F(Client, ResultAndReleaseAreTwoEnds) {
  const auto ticket = consumer_->submit(store());
  ASSERT_TRUE(ticket);
  EXPECT_FALSE(consumer_->has_result(*ticket));
  const auto outcome = consumer_->result(*ticket);
  ASSERT_TRUE(outcome);
  EXPECT_EQ(outcome->blocks, 1);
  EXPECT_FALSE(consumer_->is_released(*ticket));
  EXPECT_EQ(consumer_->outstanding(), 1);
  ASSERT_TRUE(consumer_->finish(*ticket));
  EXPECT_EQ(consumer_->outstanding(), 0);
}

TEST_F(Client, TicketsMayBeFinishedInAnyOrder) {
  std::vector<Ticket> tickets;
  for (int i = 0; i < 10; ++i) tickets.push_back(*consumer_->submit(match()));
  std::ranges::reverse(tickets);
  for (const Ticket ticket : tickets) ASSERT_TRUE(consumer_->finish(ticket));
  EXPECT_EQ(consumer_->outstanding(), 0);
}

TEST_F(Client, BusyIsSentAgain) {
  fake_pool().busy_call_every = 2;
  fake_pool().busy_result_every = 2;
  for (int i = 0; i < 20; ++i) {
    const auto outcome = consumer_->run(store());
    ASSERT_TRUE(outcome);
    EXPECT_EQ(outcome->code, Errc::ok);
    EXPECT_EQ(outcome->blocks, 1);
  }
}

TEST_F(Client, TicketsThatNobodyFinishesRunOut) {
  std::vector<Ticket> tickets;
  for (uint32_t i = 0; i < Consumer::slots_max; ++i) tickets.push_back(*consumer_->submit(match()));
  const auto more = consumer_->submit(match());
  ASSERT_FALSE(more);
  EXPECT_EQ(more.error().code, Errc::too_large);
  for (const Ticket ticket : tickets) ASSERT_TRUE(consumer_->finish(ticket));
  EXPECT_TRUE(consumer_->run(match()));
}

TEST_F(Client, ARefusedRequestTakesNoSlot) {
  for (uint32_t i = 0; i < 2 * Consumer::slots_max; ++i) {
    const auto ticket = consumer_->submit(Request(RequestKind::match, ns_));  // no keys
    ASSERT_FALSE(ticket);
    ASSERT_EQ(ticket.error().code, Errc::invalid_argument);
  }
  EXPECT_TRUE(consumer_->run(match()));
}

TEST_F(Client, TheRegionIsSharedOutOnce) {
  const auto next = consumer_->allocate(100, 64);
  ASSERT_TRUE(next);
  EXPECT_GE(next->data(), second_.data() + second_.size());
  EXPECT_EQ(reinterpret_cast<uintptr_t>(next->data()) % 64, 0U);
  const auto page = consumer_->allocate(1);
  ASSERT_TRUE(page);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(page->data()) % 4096, 0U);
  for (const uint64_t bytes : {region_bytes, UINT64_MAX}) {
    const auto none = consumer_->allocate(bytes);
    ASSERT_FALSE(none);
    EXPECT_EQ(none.error().code, Errc::too_large);
  }
  consumer_->free_all();
  EXPECT_TRUE(consumer_->allocate(region_bytes));
}

TEST_F(Client, NamespacesAreFoundByName) {
  EXPECT_EQ(*pool_->find_namespace("n"), ns_);
  const auto none = pool_->find_namespace("m");
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, Errc::miss);
}

TEST(ClientPool, SaysWhatThePoolSays) {
  const auto pool = Pool::open("bad");
  ASSERT_FALSE(pool);
  EXPECT_EQ(pool.error().code, Errc::invalid_argument);
  EXPECT_EQ(pool.error().message, "bad configuration");
}

}  // namespace
}  // namespace kvpool::bench
