// The pool through its C API, over a memory device and a file: what comes back, and where it came from.

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>

#include "api/pool_fixture.h"

namespace kvpool::api_test {
namespace {

constexpr uint32_t memory = 0;
constexpr uint32_t file = 1;

class Pool : public PoolTest {
 protected:
  void SetUp() override {
    PoolTest::SetUp();
    open(toml({"memory", "file"}));
  }
  // Retrieves the batch by its keys and expects all of it, and nothing beside it.
  static void expect_all(Client& client, const Shape& shape, const Batch& batch) {
    batch.clear();
    const Ends ends = client.run(kvpool_retrieve, Client::request(shape, batch));
    EXPECT_EQ(ends.status(), KVPOOL_OK);
    EXPECT_EQ(ends.result.blocks, batch.blocks());
    EXPECT_EQ(ends.result.segments, batch.columns);
    EXPECT_TRUE(batch.holds(batch.blocks()));
  }
};

TEST_F(Pool, GivesBackWhatWasStored) {
  const Shape shape = make({});
  Client client(pool_);
  const Batch batch = client.batch(shape, {.blocks = 20});
  EXPECT_EQ(client.run(kvpool_match, Client::request(shape, batch)).status(), KVPOOL_MISS);
  batch.fill();
  const Ends stored = client.run(kvpool_store, Client::request(shape, batch));
  EXPECT_EQ(stored.status(), KVPOOL_OK);
  EXPECT_EQ(stored.result.blocks, 20U);
  const Ends matched = client.run(kvpool_match, Client::request(shape, batch));
  EXPECT_EQ(matched.status(), KVPOOL_OK);
  EXPECT_EQ(matched.result.blocks, 20U);
  EXPECT_EQ(matched.result.bytes, 20 * shape.block_bytes());
  EXPECT_EQ(matched.result.pin, 0U);
  expect_all(client, shape, batch);
  EXPECT_GT(device_stats(memory).used_bytes, 0U);
  EXPECT_EQ(device_stats(memory).in_memory, 1U);
  EXPECT_GT(device_stats(file).read_bytes, 0U);
  EXPECT_EQ(device_stats(file).in_memory, 0U);
  const kvpool_stats all = stats();
  EXPECT_EQ(all.stored_blocks, 20U);
  EXPECT_EQ(all.retrieved_blocks, 20U);
  EXPECT_EQ(all.retrieved_bytes, 20 * shape.block_bytes());
  EXPECT_EQ(all.checksum_errors, 0U);
  EXPECT_EQ(all.tickets_under_way, 0U);
}

// With its checksums looked at. A drive reads into, and writes from, the consumer's own memory where that is
// aligned, and so is the segment; else the bytes pass through staging.
TEST_F(PoolTest, CopiesNothingOnItsWayToAndFromAFile) {
  open(toml({"file"}));
  const Shape whole = make({.name = "whole pages", .segment_bytes = {4096, 16384}});
  const Shape odd = make({.name = "odd", .segment_bytes = {4096, 100}});
  Client client(pool_);
  const auto move = [&](const Shape& shape, uint32_t misalign_bytes) {
    client.reuse();
    const uint64_t before = stats().bounced_bytes;
    const Batch batch =
        client.batch(shape, {.first_key = 1 + misalign_bytes, .blocks = 5, .misalign_bytes = misalign_bytes});
    batch.fill();
    EXPECT_EQ(client.run(kvpool_store, Client::request(shape, batch)).status(), KVPOOL_OK);
    batch.clear();
    EXPECT_EQ(client.run(kvpool_retrieve, Client::request(shape, batch)).status(), KVPOOL_OK);
    EXPECT_TRUE(batch.holds(5));
    return stats().bounced_bytes - before;
  };
  EXPECT_EQ(move(whole, 0), 0U);
  EXPECT_EQ(move(whole, 8), 2 * 5 * whole.block_bytes());
  EXPECT_EQ(move(odd, 0), 2U * 5 * 100);
}

TEST_F(Pool, AChainEndsWhereItWasNotStored) {
  const Shape shape = make({});
  Client client(pool_);
  ASSERT_EQ(store(client, shape, 1, 5).result.blocks, 5U);
  client.reuse();
  const Batch batch = client.batch(shape, {.blocks = 8});
  const Ends ends = client.run(kvpool_retrieve, Client::request(shape, batch));
  EXPECT_EQ(ends.status(), KVPOOL_MISS);
  EXPECT_EQ(ends.result.blocks, 5U);
  EXPECT_EQ(ends.result.segments, 4U);
  EXPECT_TRUE(batch.holds(5));
  for (size_t i = size_t{5} * batch.columns; i < batch.places.size(); ++i) {
    EXPECT_TRUE(std::ranges::all_of(batch.places[i], [](std::byte b) { return b == guard; })) << i;
  }
  // What follows the stored ones can be stored behind its parent, and not behind one that is not there.
  const Batch rest = client.batch(shape, {.first_key = 6, .blocks = 3});
  rest.fill();
  kvpool_request request = Client::request(shape, rest);
  request.has_parent = 1;
  request.parent = {.high = 77, .low = 99};
  EXPECT_EQ(client.run(kvpool_store, request).status(), KVPOOL_REJECTED);
  request.parent.low = 5;
  EXPECT_EQ(client.run(kvpool_store, request).status(), KVPOOL_OK);
  expect_all(client, shape, batch);
}

TEST_F(Pool, FlatBlocksStandAlone) {
  const Shape shape = make({.name = "flat", .flat = true});
  Client client(pool_);
  ASSERT_EQ(store(client, shape, 1, 8).result.blocks, 8U);
  client.reuse();
  const Batch middle = client.batch(shape, {.first_key = 4, .blocks = 3});
  expect_all(client, shape, middle);
  const Batch one = client.batch(shape, {.first_key = 2});
  EXPECT_EQ(client.run(kvpool_delete, Client::request(shape, one)).result.blocks, 1U);
  expect_all(client, shape, middle);
  EXPECT_EQ(client.run(kvpool_match, Client::request(shape, one)).status(), KVPOOL_MISS);
}

TEST_F(Pool, BringsTheSegmentsThatWereAskedForAnywhere) {
  const Shape shape = make({});
  Client client(pool_);
  ASSERT_EQ(store(client, shape, 1, 6).result.blocks, 6U);
  for (uint32_t first = 0; first < shape.segments(); ++first) {
    for (uint32_t columns = 1; first + columns <= shape.segments(); ++columns) {
      for (const uint32_t misalign : {0U, 1U, 512U}) {
        client.reuse();
        const Batch batch = client.batch(
            shape, {.blocks = 6, .segment_first = first, .columns = columns, .misalign_bytes = misalign});
        expect_all(client, shape, batch);
      }
    }
  }
  client.reuse();
  const Batch batch = client.batch(shape, {.blocks = 6});
  kvpool_request request = Client::request(shape, batch);
  request.segment_first = 2;
  request.segment_count = 3;
  EXPECT_EQ(client.run(kvpool_retrieve, request).status(), KVPOOL_INVALID_ARGUMENT);
  request.segment_first = 4;
  request.segment_count = 0;
  EXPECT_EQ(client.run(kvpool_retrieve, request).status(), KVPOOL_INVALID_ARGUMENT);
}

TEST_F(Pool, WindowSegmentsComeForTheLastBlock) {
  const Shape shape = make({.name = "windows", .window = {1, 0, 1, 0}});
  Client client(pool_);
  ASSERT_EQ(store(client, shape, 1, 6).result.blocks, 6U);
  client.reuse();
  const Batch batch = client.batch(shape, {.blocks = 6});
  const Ends ends = client.run(kvpool_retrieve, Client::request(shape, batch));
  EXPECT_EQ(ends.status(), KVPOOL_OK);
  EXPECT_EQ(ends.result.bytes, 6 * (6000 + 100) + 4096 + 16384U);
  for (uint32_t block = 0; block < 6; ++block) {
    for (uint32_t column = 0; column < 4; ++column) {
      const bool wanted = column % 2 == 1 || block == 5;
      EXPECT_EQ(batch.holds(block, column), wanted) << block << " " << column;
    }
  }
}

TEST_F(Pool, StoresFromAndLoadsIntoMemoryThatWasAdded) {
  const Shape shape = make({});
  Client client(pool_, 0);
  std::vector<std::byte> own(4 << 20);
  EXPECT_EQ(kvpool_address(client.handle(), own.data()), UINT64_MAX);
  ASSERT_EQ(kvpool_region_add(client.handle(), own.data(), own.size()), KVPOOL_OK);
  EXPECT_EQ(kvpool_address(client.handle(), own.data() + 5), (uint64_t{1} << 48) + 5);
  EXPECT_EQ(kvpool_address(client.handle(), own.data() + own.size()), UINT64_MAX);
  client.use(own);
  const Batch batch = client.batch(shape, {.blocks = 6, .misalign_bytes = 3});
  batch.fill();
  ASSERT_EQ(client.run(kvpool_store, Client::request(shape, batch)).status(), KVPOOL_OK);
  expect_all(client, shape, batch);
  for (int i = 2; i < 16; ++i) EXPECT_EQ(kvpool_region_add(client.handle(), own.data(), 64), KVPOOL_OK);
  EXPECT_EQ(kvpool_region_add(client.handle(), own.data(), 64), KVPOOL_BUSY);
}

// Of this process, by devices that know memory.
uint64_t pinned_kib() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    uint64_t kib = 0;
    if (word == "VmPin:" && status >> kib) return kib;
  }
  return 0;
}

TEST_F(Pool, StoresFromAndLoadsIntoMemoryThatDevicesWereToldOf) {
  close();
  std::vector<std::byte> own(4 << 20);
  const kvpool_memory offered{.base = own.data(), .bytes = own.size()};
  const std::string text = toml({"file"});
  const kvpool_options options{
      .struct_size = sizeof options, .config_toml = text.c_str(), .memory = &offered, .memory_count = 1};
  // The kernel lets go of what the pool before had pinned in its own time.
  const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(patience_us);
  while (pinned_kib() > 0 && std::chrono::steady_clock::now() < until) usleep(1000);
  ASSERT_EQ(kvpool_open(&options, &pool_, &error_), KVPOOL_OK) << error_.message;
  // Staging, buffers and that; where no memory may be locked nothing is pinned, not even the pool's.
  if (pinned_kib() > 0) {
    EXPECT_GE(pinned_kib(), (8 + 16 + 4) << 10);
  }
  const Shape shape = make({.segment_bytes = {4096, 16384}});
  Client client(pool_, 0);
  ASSERT_EQ(kvpool_region_add(client.handle(), own.data(), own.size()), KVPOOL_OK);
  const auto aligned = (4096 - reinterpret_cast<uintptr_t>(own.data()) % 4096) % 4096;
  client.use(std::span(own).subspan(aligned));
  const Batch batch = client.batch(shape, {.blocks = 6});
  batch.fill();
  ASSERT_EQ(client.run(kvpool_store, Client::request(shape, batch)).status(), KVPOOL_OK);
  expect_all(client, shape, batch);
  EXPECT_EQ(stats().bounced_bytes, 0U);
}

TEST_F(Pool, AnAddressOutsideTheRegionsIsRefused) {
  const Shape shape = make({});
  Client client(pool_);
  ASSERT_EQ(store(client, shape, 1, 4).result.blocks, 4U);
  client.reuse();
  const Batch batch = client.batch(shape, {.blocks = 4});
  for (const uint64_t wrong : {UINT64_MAX, uint64_t{7} << 48, uint64_t{4 << 20} - 50}) {
    batch.addresses[9] = wrong;
    EXPECT_EQ(client.run(kvpool_retrieve, Client::request(shape, batch)).status(), KVPOOL_INVALID_ARGUMENT);
    kvpool_request request = Client::request(shape, batch);
    batch.fill();
    for (kvpool_key& key : batch.keys) key.low += 100;
    const Ends stored = client.run(kvpool_store, request);
    EXPECT_EQ(stored.status(), KVPOOL_INVALID_ARGUMENT);
    EXPECT_LE(stored.result.blocks, 2U);
    for (kvpool_key& key : batch.keys) key.low -= 100;
  }
  kvpool_request request = Client::request(shape, batch);
  kvpool_ticket ticket = 0;
  request.keys = nullptr;
  EXPECT_EQ(kvpool_retrieve(client.handle(), &request, &ticket), KVPOOL_INVALID_ARGUMENT);
  const kvpool_key outside{.high = 77, .low = 1};
  request.keys = &outside;
  EXPECT_EQ(kvpool_match(client.handle(), &request, &ticket), KVPOOL_INVALID_ARGUMENT);
  // The block is still there: a wrong address says nothing about it.
  EXPECT_EQ(client.run(kvpool_match, Client::request(shape, batch)).result.blocks, 4U);
}

TEST_F(Pool, APinIsRedeemedByAnotherConsumer) {
  const Shape shape = make({});
  Client first(pool_);
  Client second(pool_);
  ASSERT_EQ(store(first, shape, 1, 6).result.blocks, 6U);
  first.reuse();
  const kvpool_pin pin = first.pin(shape, first.batch(shape, {.blocks = 6}));
  EXPECT_EQ(stats().pins_held, 1U);

  const Batch batch = second.batch(shape, {.first_key = 3, .blocks = 2});
  kvpool_request request = Client::pinned(pin, 2, 2);
  request.buffers = batch.addresses.data();
  EXPECT_EQ(second.run(kvpool_retrieve, request).status(), KVPOOL_OK);
  EXPECT_TRUE(batch.holds(2));
  EXPECT_EQ(stats().pins_held, 1U);

  request.flags = KVPOOL_TAKE_PIN;
  batch.clear();
  EXPECT_EQ(second.run(kvpool_retrieve, request).status(), KVPOOL_OK);
  EXPECT_TRUE(batch.holds(2));
  EXPECT_EQ(stats().pins_held, 0U);

  EXPECT_EQ(second.run(kvpool_retrieve, request).status(), KVPOOL_INVALID_ARGUMENT);
  EXPECT_EQ(first.run(kvpool_unpin, Client::pinned(pin, 0, 0)).status(), KVPOOL_INVALID_ARGUMENT);
  EXPECT_EQ(first.run(kvpool_estimate, Client::pinned(pin, 0, 0)).status(), KVPOOL_INVALID_ARGUMENT);
  EXPECT_EQ(first.run(kvpool_stage, Client::pinned(pin, 0, 1)).status(), KVPOOL_INVALID_ARGUMENT);
}

TEST_F(Pool, APinGoesWithItsConsumerAndARangeOutsideItIsRefused) {
  const Shape shape = make({});
  Client keeper(pool_);
  ASSERT_EQ(store(keeper, shape, 1, 4).result.blocks, 4U);
  keeper.reuse();
  const Batch batch = keeper.batch(shape, {.blocks = 4});
  kvpool_pin pin = 0;
  {
    Client client(pool_);
    pin = client.pin(shape, client.batch(shape, {.blocks = 4}));
    for (const auto& [first, blocks] : {std::pair{0U, 5U}, {4U, 1U}, {3U, 2U}, {0U, 0U}, {1U, UINT32_MAX}}) {
      kvpool_request request = Client::pinned(pin, first, blocks);
      request.buffers = batch.addresses.data();
      EXPECT_EQ(keeper.run(kvpool_retrieve, request).status(), KVPOOL_INVALID_ARGUMENT);
      EXPECT_EQ(keeper.run(kvpool_stage, request).status(), KVPOOL_INVALID_ARGUMENT);
    }
  }
  EXPECT_EQ(stats().pins_held, 0U);
  EXPECT_EQ(keeper.run(kvpool_estimate, Client::pinned(pin, 0, 0)).status(), KVPOOL_INVALID_ARGUMENT);
}

TEST_F(Pool, DeleteTakesWhatFollowsButNotWhatIsPinned) {
  const Shape shape = make({});
  Client client(pool_);
  ASSERT_EQ(store(client, shape, 1, 6).result.blocks, 6U);
  client.reuse();
  const Batch batch = client.batch(shape, {.blocks = 6});
  const kvpool_pin pin = client.pin(shape, batch);
  const Batch third = client.batch(shape, {.first_key = 3});
  const Ends removed = client.run(kvpool_delete, Client::request(shape, third));
  EXPECT_EQ(removed.status(), KVPOOL_OK);
  EXPECT_EQ(removed.result.blocks, 4U);
  EXPECT_EQ(client.run(kvpool_match, Client::request(shape, batch)).result.blocks, 2U);
  kvpool_request request = Client::pinned(pin, 0, 6);
  request.buffers = batch.addresses.data();
  request.flags = KVPOOL_TAKE_PIN;
  EXPECT_EQ(client.run(kvpool_retrieve, request).status(), KVPOOL_OK);
  EXPECT_TRUE(batch.holds(6));
  EXPECT_EQ(stats().ready_blocks, 2U);
  EXPECT_EQ(client.run(kvpool_delete, Client::request(shape, third)).status(), KVPOOL_MISS);
}

TEST_F(Pool, ProgressGrowsToTheEnd) {
  const Shape shape = make({.name = "deep", .segment_bytes = std::vector<uint32_t>(16, 65536)});
  Client client(pool_, 12 << 20);
  ASSERT_EQ(store(client, shape, 1, 8).result.blocks, 8U);
  client.reuse();
  const Batch batch = client.batch(shape, {.blocks = 8});
  const kvpool_ticket ticket = client.send(kvpool_retrieve, Client::request(shape, batch));
  uint32_t seen = 0;
  while (seen < 16) {
    const uint32_t progress = kvpool_progress(client.handle(), ticket);
    ASSERT_GE(progress, seen);
    ASSERT_LE(progress, 16U);
    for (; seen < progress; ++seen) {
      for (uint32_t block = 0; block < 8; ++block) ASSERT_TRUE(batch.holds(block, seen));
    }
    if (seen < 16) kvpool_wait(client.handle(), 1000);
  }
  EXPECT_EQ(client.finish(ticket).status(), KVPOOL_OK);
  EXPECT_EQ(kvpool_progress(client.handle(), ticket), 0U);
}

// Slots are used again, and what the one before had reached is no news of the next.
TEST_F(PoolTest, ProgressOfANewRequestIsNotThatOfTheOneBefore) {
  open(toml({"file"}, {}, "limit_read = \"2MB/s\""));
  const Shape shape = make({.name = "pages", .segment_bytes = std::vector<uint32_t>(8, 65536)});
  Client client(pool_, 12 << 20);
  ASSERT_EQ(store(client, shape, 1, 2).status(), KVPOOL_OK);
  client.reuse();
  const Batch batch = client.batch(shape, {.blocks = 2});
  for (int i = 0; i < 4; ++i) {
    batch.clear();
    const kvpool_ticket ticket = client.send(kvpool_retrieve, Client::request(shape, batch));
    const uint32_t progress = kvpool_progress(client.handle(), ticket);
    for (uint32_t segment = 0; segment < progress; ++segment) {
      EXPECT_TRUE(batch.holds(0, segment) && batch.holds(1, segment)) << segment;
    }
    ASSERT_EQ(client.finish(ticket).status(), KVPOOL_OK);
  }
}

TEST_F(Pool, WhatIsStagedIsReadFromMemory) {
  const Shape shape = make({});
  Client client(pool_);
  ASSERT_EQ(store(client, shape, 1, 12).result.blocks, 12U);
  client.reuse();
  const Batch batch = client.batch(shape, {.blocks = 12});
  const kvpool_pin pin = client.pin(shape, batch);
  const Ends estimated = client.run(kvpool_estimate, Client::pinned(pin, 0, 0));
  EXPECT_EQ(estimated.status(), KVPOOL_OK);
  EXPECT_EQ(estimated.result.blocks, 12U);
  EXPECT_EQ(estimated.result.bytes, 12 * shape.block_bytes());
  // Between half of the bytes and all of them at 1 GB/s, one device after the other being the worst.
  EXPECT_GE(estimated.result.estimate_us, 12 * shape.block_bytes() / 2000);
  EXPECT_LE(estimated.result.estimate_us, 12 * shape.block_bytes() / 1000);

  const Ends staged = client.run(kvpool_stage, Client::pinned(pin, 0, 12));
  EXPECT_EQ(staged.status(), KVPOOL_OK);
  EXPECT_EQ(staged.result.blocks, 12U);
  const uint64_t file_reads = device_stats(file).reads;
  EXPECT_GT(file_reads, 0U);
  expect_all(client, shape, batch);
  EXPECT_EQ(device_stats(file).reads, file_reads);
  EXPECT_EQ(client.run(kvpool_unpin, Client::pinned(pin, 0, 0)).status(), KVPOOL_OK);
  EXPECT_EQ(stats().pins_held, 0U);
}

TEST_F(Pool, AFullPoolEvictsAndNeverGivesWrongBytes) {
  const Shape shape = make({.name = "big", .segment_bytes = std::vector<uint32_t>(8, 65536)});
  Client client(pool_, 8 << 20);
  constexpr uint32_t chains = 60;  // of four blocks of 512 KiB: 120 MiB into 96
  constexpr uint64_t stride = 100;
  for (uint32_t i = 0; i < chains; ++i) {
    const Ends ends = store(client, shape, 1 + i * stride, 4);
    ASSERT_EQ(ends.status(), KVPOOL_OK) << i;
  }
  const kvpool_stats all = stats();
  EXPECT_GT(all.evicted_blocks, 0U);
  EXPECT_EQ(all.stored_blocks, 4 * chains);
  EXPECT_EQ(all.ready_blocks + all.evicted_blocks, 4 * chains);
  EXPECT_GE(all.live_bytes, uint64_t{85} << 20);
  uint32_t found = 0;
  for (uint32_t i = 0; i < chains; ++i) {
    client.reuse();
    const Batch batch = client.batch(shape, {.first_key = 1 + i * stride, .blocks = 4});
    const Ends ends = client.run(kvpool_retrieve, Client::request(shape, batch));
    EXPECT_EQ(ends.status(), ends.result.blocks == 4 ? KVPOOL_OK : KVPOOL_MISS);
    ASSERT_TRUE(batch.holds(ends.result.blocks)) << i;
    found += ends.result.blocks;
    EXPECT_TRUE(i > 0 || ends.result.blocks < 4) << "the oldest chain is the first to go";
  }
  EXPECT_EQ(found, all.ready_blocks);
  EXPECT_EQ(stats().checksum_errors, 0U);
}

TEST_F(Pool, RefusesToStoreWhenAllIsPinned) {
  const Shape shape = make({.name = "big", .segment_bytes = std::vector<uint32_t>(8, 65536)});
  Client client(pool_, 8 << 20);
  std::vector<kvpool_pin> pins;
  Ends ends;
  for (uint64_t key = 1; key < 5000; key += 100) {
    ends = store(client, shape, key, 4);
    if (ends.status() != KVPOOL_OK) break;
    client.reuse();
    pins.push_back(client.pin(shape, client.batch(shape, {.first_key = key, .blocks = 4})));
  }
  EXPECT_EQ(ends.status(), KVPOOL_REJECTED);
  EXPECT_LT(ends.result.blocks, 4U);
  EXPECT_GT(stats().rejected_blocks, 0U);
  for (const kvpool_pin pin : pins) {
    EXPECT_EQ(client.run(kvpool_unpin, Client::pinned(pin, 0, 0)).status(), KVPOOL_OK);
  }
  EXPECT_EQ(store(client, shape, 9000, 4).status(), KVPOOL_OK);
}

}  // namespace
}  // namespace kvpool::api_test
