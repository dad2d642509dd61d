// Requests that are legal and odd: keys twice in a batch, arrays at odd addresses, stores that end half-way,
// pins given along with a request that fails.

#include <gtest/gtest.h>

#include <thread>

#include "api/pool_fixture.h"

namespace kvpool::api_test {
namespace {

class Requests : public PoolTest {
 protected:
  static void expect_blocks(Client& client, const Shape& shape, uint64_t first_key, uint32_t asked,
                            uint32_t there) {
    client.reuse();
    const Batch batch = client.batch(shape, {.first_key = first_key, .blocks = asked});
    const Ends ends = client.run(kvpool_retrieve, Client::request(shape, batch));
    EXPECT_EQ(ends.status(), asked == there ? KVPOOL_OK : KVPOOL_MISS);
    EXPECT_EQ(ends.result.blocks, there);
    EXPECT_TRUE(batch.holds(ends.result.blocks));
  }
  void expect_quiet() {
    EXPECT_EQ(stats().tickets_under_way, 0U);
    EXPECT_EQ(stats().pins_held, 0U);
  }
};

TEST_F(Requests, StoringAgainStoresOnce) {
  open(toml({"memory", "file"}));
  const Shape shape = make({});
  Client client(pool_);
  ASSERT_EQ(store(client, shape, 1, 4).result.blocks, 4U);
  EXPECT_EQ(store(client, shape, 1, 8).result.blocks, 8U);
  EXPECT_EQ(stats().stored_blocks, 8U);
  EXPECT_EQ(stats().stored_bytes, 8 * shape.block_bytes());
  expect_blocks(client, shape, 1, 8, 8);
}

TEST_F(Requests, AKeyMayStandTwiceInAFlatBatch) {
  open(toml({"memory", "file"}));
  const Shape shape = make({.name = "flat", .flat = true});
  Client client(pool_);
  const Batch batch = client.batch(shape, {.blocks = 6});
  batch.keys[3] = batch.keys[5] = batch.keys[0];
  batch.fill();
  const Ends stored = client.run(kvpool_store, Client::request(shape, batch));
  EXPECT_EQ(stored.status(), KVPOOL_OK);
  EXPECT_EQ(stored.result.blocks, 6U);
  EXPECT_EQ(stats().stored_blocks, 4U);
  batch.clear();
  EXPECT_EQ(client.run(kvpool_retrieve, Client::request(shape, batch)).status(), KVPOOL_OK);
  EXPECT_TRUE(batch.holds(6));
  kvpool_request request = Client::request(shape, batch);
  EXPECT_EQ(client.run(kvpool_delete, request).result.blocks, 4U);
  EXPECT_EQ(stats().ready_blocks, 0U);
}

// A block of a chain has one parent. What a store calls stored, a match finds.
TEST_F(Requests, ABlockFollowsOneParent) {
  open(toml({"memory"}));
  const Shape shape = make({});
  Client client(pool_);
  const Batch batch = client.batch(shape, {.blocks = 4});
  batch.keys[2] = batch.keys[0];
  batch.fill();
  kvpool_request request = Client::request(shape, batch);
  const Ends stored = client.run(kvpool_store, request);
  EXPECT_EQ(stored.status(), KVPOOL_REJECTED);
  EXPECT_EQ(stored.result.blocks, 2U);
  EXPECT_EQ(client.run(kvpool_match, request).result.blocks, 2U);
  // The second block, as a root and behind another.
  const Batch second = client.batch(shape, {.first_key = 2});
  second.fill();
  request = Client::request(shape, second);
  EXPECT_EQ(client.run(kvpool_store, request).status(), KVPOOL_REJECTED);
  request.has_parent = 1;
  request.parent = {.high = 77, .low = 2};
  EXPECT_EQ(client.run(kvpool_store, request).status(), KVPOOL_REJECTED);
  request.parent = {.high = 77, .low = 1};
  EXPECT_EQ(client.run(kvpool_store, request).status(), KVPOOL_OK);
}

TEST_F(Requests, ArraysAtOddAddressesAreRefused) {
  open(toml({"memory"}));
  const Shape shape = make({});
  Client client(pool_);
  ASSERT_EQ(store(client, shape, 1, 2).result.blocks, 2U);
  client.reuse();
  const Batch batch = client.batch(shape, {.blocks = 2});
  const auto odd = [](const auto* pointer) {
    return reinterpret_cast<decltype(pointer)>(reinterpret_cast<uintptr_t>(pointer) + 1);
  };
  for (const Call call : {kvpool_match, kvpool_store, kvpool_retrieve, kvpool_delete}) {
    kvpool_request request = Client::request(shape, batch);
    request.keys = odd(request.keys);
    EXPECT_EQ(client.run(call, request).status(), KVPOOL_INVALID_ARGUMENT);
  }
  for (const Call call : {kvpool_store, kvpool_retrieve}) {
    kvpool_request request = Client::request(shape, batch);
    request.buffers = odd(request.buffers);
    EXPECT_EQ(client.run(call, request).status(), KVPOOL_INVALID_ARGUMENT);
  }
  expect_blocks(client, shape, 1, 2, 2);
}

TEST_F(Requests, APinThatWasGivenAlongGoesThoughTheRequestFails) {
  open(toml({"memory"}));
  const Shape shape = make({});
  Client client(pool_);
  ASSERT_EQ(store(client, shape, 1, 2).result.blocks, 2U);
  client.reuse();
  const Batch batch = client.batch(shape, {.blocks = 2});
  for (const Call call : {kvpool_retrieve, kvpool_stage}) {
    kvpool_request request = Client::pinned(client.pin(shape, batch), 1, 2);  // one block too far
    request.buffers = batch.addresses.data();
    request.flags = KVPOOL_TAKE_PIN;
    EXPECT_EQ(client.run(call, request).status(), KVPOOL_INVALID_ARGUMENT);
    EXPECT_EQ(stats().pins_held, 0U);
  }
}

TEST_F(Requests, NothingIsStagedWithoutMemory) {
  open(toml({"file"}));
  const Shape shape = make({});
  Client client(pool_);
  ASSERT_EQ(store(client, shape, 1, 3).result.blocks, 3U);
  client.reuse();
  const Batch batch = client.batch(shape, {.blocks = 3});
  kvpool_request request = Client::pinned(client.pin(shape, batch), 0, 3);
  request.flags = KVPOOL_TAKE_PIN;
  const Ends staged = client.run(kvpool_stage, request);
  EXPECT_EQ(staged.status(), KVPOOL_REJECTED);
  EXPECT_EQ(staged.result.blocks, 0U);
  expect_quiet();
  expect_blocks(client, shape, 1, 3, 3);
}

// The pin is given back while the blocks are still on their way, and deleted while they are read.
TEST_F(Requests, WhatIsOnItsWayIsNotTakenAway) {
  open(toml({"memory", "file"}, {}, "limit_read = \"4MB/s\""));
  const Shape shape = make({.name = "large", .segment_bytes = std::vector<uint32_t>(4, 131072)});
  Client client(pool_, 8 << 20);
  ASSERT_EQ(store(client, shape, 1, 4).result.blocks, 4U);
  client.reuse();
  const Batch batch = client.batch(shape, {.blocks = 4});
  const kvpool_pin pin = client.pin(shape, batch);
  const kvpool_ticket stage = client.send(kvpool_stage, Client::pinned(pin, 0, 2));
  kvpool_request request = Client::pinned(pin, 0, 4);
  request.buffers = batch.addresses.data();
  const kvpool_ticket retrieve = client.send(kvpool_retrieve, request);
  EXPECT_EQ(client.run(kvpool_unpin, Client::pinned(pin, 0, 0)).status(), KVPOOL_OK);
  EXPECT_EQ(client.run(kvpool_delete, Client::request(shape, batch)).result.blocks, 4U);
  EXPECT_EQ(client.ends(retrieve).results, 0U) << "the device was meant to be slow";
  EXPECT_EQ(client.finish(retrieve).status(), KVPOOL_OK);
  EXPECT_TRUE(batch.holds(4));
  client.finish(stage);
  expect_quiet();
  EXPECT_EQ(stats().ready_blocks, 0U);
  EXPECT_EQ(device_stats(0).used_bytes, 0U);
  EXPECT_EQ(device_stats(1).used_bytes, 0U);
}

// Two store the same blocks; the one that writes them gives up: the other one writes them then.
TEST_F(Requests, AStoreTakesOverWhatAnotherGaveUp) {
  open(toml({"file"}, {}, "limit_write = \"8MB/s\""));
  const Shape shape = make({.name = "large", .segment_bytes = std::vector<uint32_t>(4, 131072)});
  Client first(pool_);
  Client second(pool_);
  const auto send = [&](Client& client) {
    const Batch batch = client.batch(shape, {.blocks = 4});
    batch.fill();
    return client.send(kvpool_store, Client::request(shape, batch));
  };
  const kvpool_ticket one = send(first);
  while (stats().tickets_under_way == 0) std::this_thread::yield();
  const kvpool_ticket two = send(second);
  EXPECT_EQ(kvpool_cancel(first.handle(), one), KVPOOL_OK);
  const Ends given_up = first.finish(one);
  EXPECT_EQ(given_up.status(), KVPOOL_CANCELLED);
  EXPECT_LT(given_up.result.blocks, 4U);
  const Ends stored = second.finish(two);
  EXPECT_EQ(stored.status(), KVPOOL_OK);
  EXPECT_EQ(stored.result.blocks, 4U);
  expect_blocks(second, shape, 1, 4, 4);
  expect_quiet();
}

TEST_F(Requests, AStoreThatIsLateKeepsWhatWasVisible) {
  open(toml({"file"}, {}, "limit_write = \"4MB/s\""));
  const Shape shape = make({.name = "large", .segment_bytes = std::vector<uint32_t>(4, 131072)});
  Client client(pool_);
  const Batch batch = client.batch(shape, {.blocks = 6});
  batch.fill();
  kvpool_request request = Client::request(shape, batch);
  request.timeout_us = 350'000;  // of 0.75 s of writing
  const Ends ends = client.run(kvpool_store, request);
  EXPECT_EQ(ends.status(), KVPOOL_TIMED_OUT);
  EXPECT_LT(ends.result.blocks, 6U);
  const kvpool_stats all = stats();
  EXPECT_EQ(all.ready_blocks, ends.result.blocks);
  expect_blocks(client, shape, 1, 6, ends.result.blocks);
  EXPECT_EQ(device_stats(0).used_bytes, all.live_bytes);
  expect_quiet();
}

TEST_F(Requests, AWatchdogCountsWhatStands) {
  open(toml({"file"}, "stall_warning = \"300ms\"", "limit_read = \"250KB/s\""));
  const Shape shape = make({.name = "large", .segment_bytes = {262144}});
  Client client(pool_);
  // The first passes and leaves a debt of a second to the next.
  ASSERT_EQ(store(client, shape, 1, 2).result.blocks, 2U);
  const uint64_t before = stats().stalled_tickets;  // a disk may take its time
  expect_blocks(client, shape, 1, 2, 2);
  EXPECT_GT(stats().stalled_tickets, before);
}

}  // namespace
}  // namespace kvpool::api_test
