// Retrieves that leave in pool memory what lies there: the same bytes as a copy brings, at addresses that
// hold as long as the pin does.

#include <gtest/gtest.h>

#include <cstddef>
#include <functional>
#include <optional>

#include "api/pool_fixture.h"
#include "base/checksum.h"

namespace kvpool::api_test {
namespace {

// One retrieve in place: what a consumer hands over, and what it may do with the answer.
struct Placed {
  Batch batch;
  std::span<const void*> places;  // [blocks][columns]
  kvpool_request request{};

  [[nodiscard]] const std::byte* at(uint32_t block, uint32_t column) const {
    return static_cast<const std::byte*>(places[size_t{block} * batch.columns + column]);
  }
  // Where the segment's bytes are, in the pool or in the buffer.
  [[nodiscard]] std::span<const std::byte> bytes(uint32_t block, uint32_t column) const {
    const std::span<std::byte> buffer = batch.place(block, column);
    return at(block, column) == nullptr ? buffer
                                        : std::span<const std::byte>(at(block, column), buffer.size());
  }
  [[nodiscard]] bool holds(uint32_t block, uint32_t column) const {
    return holds_segment(bytes(block, column), batch.keys[block], batch.segment_first + column);
  }
  [[nodiscard]] bool holds(uint32_t blocks) const {
    for (uint32_t block = 0; block < blocks; ++block) {
      for (uint32_t column = 0; column < batch.columns; ++column) {
        if (!holds(block, column)) return false;
      }
    }
    return true;
  }
  [[nodiscard]] uint32_t in_place() const {
    return static_cast<uint32_t>(places.size() - std::ranges::count(places, nullptr));
  }
};

class InPlace : public PoolTest {
 protected:
  std::string config(const std::vector<std::string>& kinds, bool always = true,
                     const std::string& device_keys = {}) {
    std::string text = toml(kinds, {}, device_keys);
    const std::string section = "[pool]\n";
    if (always) text.insert(text.find(section) + section.size(), "verify = \"always\"\n");
    return text;
  }
  [[nodiscard]] static Placed place(Client& client, const Shape& shape, kvpool_pin pin,
                                    const BatchOptions& options, uint64_t run_first_key = 1) {
    Placed made;
    made.batch = client.batch(shape, options);
    made.places = client.allocate_array<const void*>(made.batch.places.size());
    made.request =
        Client::pinned(pin, static_cast<uint32_t>(options.first_key - run_first_key), made.batch.blocks());
    made.request.flags = KVPOOL_IN_PLACE;
    made.request.buffers = made.batch.addresses.data();
    made.request.places = made.places.data();
    made.request.segment_first = made.batch.segment_first;
    made.request.segment_count = made.batch.columns;
    return made;
  }
  [[nodiscard]] std::vector<std::span<const std::byte>> ranges() const {
    std::vector<kvpool_memory> raw(kvpool_memory_ranges(pool_, nullptr, 0));
    EXPECT_EQ(kvpool_memory_ranges(pool_, raw.data(), static_cast<uint32_t>(raw.size())), raw.size());
    std::vector<std::span<const std::byte>> all;
    for (const kvpool_memory& its : raw) all.emplace_back(static_cast<const std::byte*>(its.base), its.bytes);
    return all;
  }
  [[nodiscard]] bool is_in_pool(std::span<const std::byte> bytes) const {
    return std::ranges::any_of(ranges(), [&](std::span<const std::byte> range) {
      return bytes.data() >= range.data() && bytes.data() + bytes.size() <= range.data() + range.size();
    });
  }
  void unpin(Client& client, kvpool_pin pin) {
    EXPECT_EQ(client.run(kvpool_unpin, Client::pinned(pin, 0, 0)).status(), KVPOOL_OK);
    EXPECT_EQ(stats().pins_held, 0U);
  }
  // Stores until the pool has evicted more than it holds.
  void churn(Client& client, const Shape& shape) {
    const uint64_t before = stats().evicted_blocks;
    for (uint64_t key = 1'000'000; stats().evicted_blocks < before + 300; key += 100) {
      ASSERT_EQ(store(client, shape, key, 4).status(), KVPOOL_OK);
    }
  }
  // As a fault of the memory would.
  static void spoil(const std::byte* byte) { *const_cast<std::byte*>(byte) ^= std::byte{1}; }
};

struct Mix {
  const char* name;
  std::vector<std::string> kinds;
  bool always;
};

class InPlaceOf : public InPlace, public testing::WithParamInterface<Mix> {};

TEST_P(InPlaceOf, IsWhatACopyBrings) {
  open(config(GetParam().kinds, GetParam().always));
  const Shape shape = make({});
  Client client(pool_);
  ASSERT_EQ(store(client, shape, 1, 12).result.blocks, 12U);
  client.reuse();
  const Batch copied = client.batch(shape, {.blocks = 12});
  const kvpool_pin pin = client.pin(shape, copied);
  kvpool_request request = Client::pinned(pin, 0, 12);
  request.buffers = copied.addresses.data();
  const Ends copy = client.run(kvpool_retrieve, request);
  ASSERT_EQ(copy.status(), KVPOOL_OK);
  ASSERT_TRUE(copied.holds(12));
  const uint64_t reads = device_stats(0).reads;

  for (const BatchOptions& options :
       {BatchOptions{.blocks = 12}, BatchOptions{.blocks = 12, .misalign_bytes = 9},
        BatchOptions{.first_key = 4, .blocks = 5, .segment_first = 1, .columns = 2}}) {
    const Placed placed = place(client, shape, pin, options);
    const Ends ends = client.run(kvpool_retrieve, placed.request);
    EXPECT_EQ(ends.status(), KVPOOL_OK);
    EXPECT_EQ(ends.result.blocks, options.blocks);
    EXPECT_EQ(ends.result.segments, placed.batch.columns);
    if (options.blocks == 12) {
      EXPECT_EQ(ends.result.bytes, copy.result.bytes);
    }
    EXPECT_TRUE(placed.holds(options.blocks));
    const bool has_memory = GetParam().kinds.front() == "memory";
    const bool has_file = GetParam().kinds.back() == "file";
    EXPECT_EQ(placed.in_place() > 0, has_memory);
    EXPECT_EQ(placed.in_place() < placed.places.size(), has_file);
    for (uint32_t block = 0; block < options.blocks; ++block) {
      for (uint32_t column = 0; column < placed.batch.columns; ++column) {
        if (placed.at(block, column) == nullptr) continue;
        EXPECT_TRUE(is_in_pool(placed.bytes(block, column)));
        EXPECT_TRUE(std::ranges::all_of(placed.batch.place(block, column), [](std::byte b) {
          return b == guard;
        })) << "a buffer of a segment that was left where it lies";
      }
    }
  }
  EXPECT_GT(device_stats(0).reads, reads);
  unpin(client, pin);
  EXPECT_EQ(stats().checksum_errors, 0U);
}

INSTANTIATE_TEST_SUITE_P(Mixes, InPlaceOf,
                         testing::Values(Mix{"memory", {"memory"}, true}, Mix{"file", {"file"}, true},
                                         Mix{"both", {"memory", "file"}, true},
                                         Mix{"bothUnverified", {"memory", "file"}, false}),
                         [](const auto& its) { return std::string(its.param.name); });

TEST_F(InPlace, WindowSegmentsHaveAPlaceInTheLastBlock) {
  open(config({"memory"}));
  const Shape shape = make({.name = "windows", .window = {1, 0, 1, 0}});
  Client client(pool_);
  ASSERT_EQ(store(client, shape, 1, 6).result.blocks, 6U);
  client.reuse();
  const kvpool_pin pin = client.pin(shape, client.batch(shape, {.blocks = 6}));
  const Placed placed = place(client, shape, pin, {.blocks = 6});
  EXPECT_EQ(client.run(kvpool_retrieve, placed.request).status(), KVPOOL_OK);
  for (uint32_t block = 0; block < 6; ++block) {
    for (uint32_t column = 0; column < 4; ++column) {
      const bool wanted = column % 2 == 1 || block == 5;
      EXPECT_EQ(placed.at(block, column) != nullptr, wanted) << block << " " << column;
      EXPECT_EQ(placed.holds(block, column), wanted) << block << " " << column;
    }
  }
  // Wrong bytes in a block in the middle: the windows of the one before it are wanted instead.
  spoil(placed.at(3, 1) + 100);
  const Placed shorter = place(client, shape, pin, {.blocks = 6});
  const Ends ends = client.run(kvpool_retrieve, shorter.request);
  EXPECT_EQ(ends.status(), KVPOOL_MISS);
  EXPECT_EQ(ends.result.blocks, 3U);
  EXPECT_EQ(ends.result.segments, 4U);
  for (uint32_t block = 0; block < 3; ++block) {
    for (uint32_t column = 0; column < 4; ++column) {
      EXPECT_EQ(shorter.holds(block, column), column % 2 == 1 || block == 2) << block << " " << column;
    }
  }
  EXPECT_EQ(shorter.at(3, 1), nullptr);
  unpin(client, pin);
}

TEST_F(InPlace, BytesThatChangedInMemoryAreAMiss) {
  open(config({"memory", "file"}));
  const Shape shape = make({});
  Client client(pool_);
  ASSERT_EQ(store(client, shape, 1, 8).result.blocks, 8U);
  client.reuse();
  const Batch batch = client.batch(shape, {.blocks = 8});
  const kvpool_pin pin = client.pin(shape, batch);
  const Placed before = place(client, shape, pin, {.blocks = 8});
  ASSERT_EQ(client.run(kvpool_retrieve, before.request).status(), KVPOOL_OK);
  uint32_t column = 0;
  while (column < 4 && before.at(5, column) == nullptr) ++column;
  ASSERT_LT(column, 4U) << "nothing of the block lies in memory";
  spoil(before.at(5, column) + shape.segment_bytes[column] - 1);

  const Placed after = place(client, shape, pin, {.blocks = 8});
  const Ends ends = client.run(kvpool_retrieve, after.request);
  EXPECT_EQ(ends.status(), KVPOOL_MISS);
  EXPECT_EQ(ends.result.blocks, 5U);
  EXPECT_EQ(ends.result.segments, 4U);
  EXPECT_TRUE(after.holds(5));
  EXPECT_EQ(after.at(5, column), nullptr) << "an address of wrong bytes";
  EXPECT_EQ(stats().checksum_errors, 1U);
  EXPECT_EQ(client.run(kvpool_match, Client::request(shape, batch)).result.blocks, 5U);
  // The block is gone; what others hold of it and behind it stays where it is.
  EXPECT_TRUE(before.holds(4));
  EXPECT_TRUE(before.holds(6, 0) && before.holds(7, 3));
  unpin(client, pin);
}

// A retrieve of blocks 2 to 8, with a check for each segment.
struct Checked {
  Placed placed;
  std::span<kvpool_check> checks;
  [[nodiscard]] const kvpool_check& at(uint32_t block, uint32_t column) const {
    return checks[size_t{block} * placed.batch.columns + column];
  }
  [[nodiscard]] bool fits(uint32_t block, uint32_t column) const {
    return checksum(placed.bytes(block, column), at(block, column).seed) == at(block, column).sum;
  }
};

class InPlaceChecks : public InPlace {
 protected:
  void start(bool always) {
    open(config({"memory", "file"}, always));
    const Shape shape = make({});
    client_.emplace(pool_);
    ASSERT_EQ(store(*client_, shape, 1, 8).result.blocks, 8U);
    client_->reuse();
    pin_ = client_->pin(shape, client_->batch(shape, {.blocks = 8}));
    its_.placed = place(*client_, shape, pin_, {.first_key = 2, .blocks = 7});
    its_.checks = client_->allocate_array<kvpool_check>(its_.placed.places.size());
    its_.placed.request.checks = its_.checks.data();
    its_.placed.request.flags |= KVPOOL_UNSUMMED;
    ASSERT_EQ(client_->run(kvpool_retrieve, its_.placed.request).status(), KVPOOL_OK);
    ASSERT_GT(its_.placed.in_place(), 0U);
  }
  void TearDown() override {
    unpin(*client_, pin_);
    client_.reset();
    InPlace::TearDown();
  }
  void each_place(const std::function<void(uint32_t block, uint32_t column)>& look) const {
    for (uint32_t block = 0; block < 7; ++block) {
      for (uint32_t column = 0; column < 4; ++column) {
        if (its_.placed.at(block, column) != nullptr) look(block, column);
      }
    }
  }

  std::optional<Client> client_;
  kvpool_pin pin_ = 0;
  Checked its_;
};

TEST_F(InPlaceChecks, AreNoughtWhereMemoryIsNotVerified) {
  start(false);
  each_place([&](uint32_t block, uint32_t column) {
    EXPECT_EQ(its_.at(block, column).seed, 0U);
    EXPECT_EQ(its_.at(block, column).sum, 0U);
  });
}

TEST_F(InPlaceChecks, AreWhatTheBytesMustBe) {
  start(true);
  uint32_t spoiled = 0;
  uint32_t spoiled_column = 0;
  each_place([&](uint32_t block, uint32_t column) {
    EXPECT_TRUE(its_.fits(block, column));
    spoiled = block;
    spoiled_column = column;
  });
  spoil(its_.placed.at(spoiled, spoiled_column) + 17);
  EXPECT_EQ(client_->run(kvpool_retrieve, its_.placed.request).result.blocks, 7U)
      << "the pool has not looked";
  EXPECT_FALSE(its_.fits(spoiled, spoiled_column));
  its_.placed.request.flags &= ~uint32_t{KVPOOL_UNSUMMED};
  const Ends seen = client_->run(kvpool_retrieve, its_.placed.request);
  EXPECT_EQ(seen.status(), KVPOOL_MISS);
  EXPECT_EQ(seen.result.blocks, spoiled);
  EXPECT_EQ(stats().checksum_errors, 1U);
}

// Whatever happens to the pool, what a pin holds is neither moved nor overwritten.
TEST_F(InPlace, PlacesHoldAsLongAsThePin) {
  open(config({"memory", "file"}));
  const Shape shape = make({.name = "big", .segment_bytes = std::vector<uint32_t>(8, 65536)});
  const Shape small = make({.name = "small", .segment_bytes = std::vector<uint32_t>(4, 20480)});
  Client holder(pool_, 10 << 20);
  Client other(pool_, 4 << 20);
  ASSERT_EQ(store(holder, shape, 1, 4).result.blocks, 4U);
  holder.reuse();
  const Batch batch = holder.batch(shape, {.blocks = 4});
  const kvpool_pin pin = holder.pin(shape, batch);
  const Placed first = place(holder, shape, pin, {.blocks = 4});
  ASSERT_EQ(holder.run(kvpool_retrieve, first.request).status(), KVPOOL_OK);
  const uint32_t placed_first = first.in_place();
  EXPECT_LT(placed_first, 32U);
  // Second residences hold as well as first ones.
  ASSERT_EQ(holder.run(kvpool_stage, Client::pinned(pin, 0, 4)).status(), KVPOOL_OK);
  std::ranges::fill(batch.addresses, UINT64_MAX);  // all is in memory: no buffer is wanted
  Placed staged = place(holder, shape, pin, {.blocks = 4});
  staged.request.buffers = batch.addresses.data();
  ASSERT_EQ(holder.run(kvpool_retrieve, staged.request).status(), KVPOOL_OK);
  EXPECT_EQ(staged.in_place(), 32U);
  EXPECT_TRUE(staged.holds(4));

  ASSERT_NO_FATAL_FAILURE(churn(other, shape));
  EXPECT_TRUE(first.holds(4) && staged.holds(4)) << "evictions";
  ASSERT_NO_FATAL_FAILURE(churn(other, small));
  EXPECT_TRUE(first.holds(4) && staged.holds(4)) << "slabs that change over";
  other.reuse();
  EXPECT_EQ(other.run(kvpool_delete, Client::request(shape, other.batch(shape, {.blocks = 4}))).result.blocks,
            4U);
  ASSERT_NO_FATAL_FAILURE(churn(other, shape));
  EXPECT_TRUE(first.holds(4) && staged.holds(4)) << "a deleted block";
  const Placed again = place(holder, shape, pin, {.blocks = 4});
  ASSERT_EQ(holder.run(kvpool_retrieve, again.request).status(), KVPOOL_OK);
  EXPECT_TRUE(std::ranges::equal(again.places, staged.places)) << "it was moved";

  // Given back, the memory is anybody's.
  unpin(holder, pin);
  ASSERT_NO_FATAL_FAILURE(churn(other, shape));
  EXPECT_FALSE(staged.holds(4));
  EXPECT_EQ(stats().checksum_errors, 0U);
}

// A ticket that was cancelled or is late has reported some; what it reported is right, and holds.
TEST_F(InPlace, WhatWasReportedHoldsThoughTheRequestEndsEarly) {
  open(config({"memory", "file"}, true, "limit_read = \"4MB/s\""));
  const Shape shape = make({.name = "large", .segment_bytes = std::vector<uint32_t>(8, 65536)});
  Client client(pool_, 14 << 20);
  ASSERT_EQ(store(client, shape, 1, 12).result.blocks, 12U);
  for (const bool cancels : {false, true}) {
    client.reuse();
    const kvpool_pin pin = client.pin(shape, client.batch(shape, {.blocks = 12}));
    client.reuse();
    Placed placed = place(client, shape, pin, {.blocks = 12});
    if (!cancels) placed.request.timeout_us = 150'000;  // of 0.8 s of reading
    const kvpool_ticket ticket = client.send(kvpool_retrieve, placed.request);
    while (cancels && kvpool_progress(client.handle(), ticket) < 2) kvpool_wait(client.handle(), 100'000);
    if (cancels) {
      EXPECT_EQ(kvpool_cancel(client.handle(), ticket), KVPOOL_OK);
    }
    const Ends ends = client.finish(ticket);
    EXPECT_EQ(ends.status(), cancels ? KVPOOL_CANCELLED : KVPOOL_TIMED_OUT);
    EXPECT_LT(ends.result.segments, 8U);
    EXPECT_GE(ends.result.segments, cancels ? 2U : 0U);
    for (uint32_t block = 0; block < 12; ++block) {
      for (uint32_t column = 0; column < 8; ++column) {
        const bool reported = column < ends.result.segments;
        EXPECT_TRUE(placed.holds(block, column) || (!reported && placed.at(block, column) == nullptr));
      }
    }
    unpin(client, pin);
  }
}

TEST_F(InPlace, ASegmentHasItsPlaceWhenProgressReportsIt) {
  open(config({"memory", "file"}, true, "limit_read = \"4MB/s\""));
  const Shape shape = make({.name = "many", .segment_bytes = std::vector<uint32_t>(16, 16384)});
  Client client(pool_, 14 << 20);
  ASSERT_EQ(store(client, shape, 1, 16).result.blocks, 16U);
  client.reuse();
  const kvpool_pin pin = client.pin(shape, client.batch(shape, {.blocks = 16}));
  const Placed placed = place(client, shape, pin, {.blocks = 16});
  const kvpool_ticket ticket = client.send(kvpool_retrieve, placed.request);
  uint32_t seen = 0;
  uint32_t times = 0;
  while (client.ends(ticket).results == 0) {
    const uint32_t progress = kvpool_progress(client.handle(), ticket);
    if (progress > seen) ++times;
    for (; seen < progress; ++seen) {
      for (uint32_t block = 0; block < 16; ++block) ASSERT_TRUE(placed.holds(block, seen)) << seen;
    }
    if (client.poll() == 0) kvpool_wait(client.handle(), 100'000);
  }
  EXPECT_EQ(client.finish(ticket).status(), KVPOOL_OK);
  EXPECT_GT(times, 1U);
  unpin(client, pin);
}

TEST_F(InPlace, WhatCouldNotHoldIsRefused) {
  open(config({"memory"}));
  const Shape shape = make({});
  Client client(pool_);
  ASSERT_EQ(store(client, shape, 1, 2).result.blocks, 2U);
  client.reuse();
  const Batch batch = client.batch(shape, {.blocks = 2});
  const kvpool_pin pin = client.pin(shape, batch);
  const Placed placed = place(client, shape, pin, {.blocks = 2});
  const auto refused = [&](const kvpool_request& request) {
    kvpool_ticket ticket = 0;
    return kvpool_retrieve(client.handle(), &request, &ticket) == KVPOOL_INVALID_ARGUMENT;
  };
  kvpool_request request = Client::request(shape, batch);  // keys, and no pin
  request.flags = KVPOOL_IN_PLACE;
  request.places = placed.places.data();
  EXPECT_TRUE(refused(request));
  request = placed.request;
  request.flags |= KVPOOL_TAKE_PIN;
  EXPECT_TRUE(refused(request));
  EXPECT_EQ(stats().pins_held, 1U);
  request = placed.request;
  request.places = nullptr;
  EXPECT_TRUE(refused(request));
  std::array<const void*, 8> outside{};
  request.places = outside.data();
  EXPECT_TRUE(refused(request));
  std::array<kvpool_check, 8> checks_outside{};
  request = placed.request;
  request.checks = checks_outside.data();
  EXPECT_TRUE(refused(request));
  request = placed.request;
  request.flags |= KVPOOL_UNSUMMED;
  EXPECT_TRUE(refused(request)) << "who looks, then?";
  request = placed.request;
  request.struct_size = offsetof(kvpool_request, places);  // an older header has none
  EXPECT_TRUE(refused(request));
  request.flags = 0;
  EXPECT_EQ(client.run(kvpool_retrieve, request).status(), KVPOOL_OK);
  // The engine looks too: at an odd address, and at an array that ends outside.
  request = placed.request;
  request.places = reinterpret_cast<const void**>(reinterpret_cast<uintptr_t>(request.places) + 1);
  EXPECT_EQ(client.run(kvpool_retrieve, request).status(), KVPOOL_INVALID_ARGUMENT);
  uint64_t region_bytes = 0;
  auto* region = static_cast<std::byte*>(kvpool_region(client.handle(), &region_bytes));
  request.places = reinterpret_cast<const void**>(region + region_bytes - 8);
  EXPECT_EQ(client.run(kvpool_retrieve, request).status(), KVPOOL_INVALID_ARGUMENT);
  request = placed.request;
  request.checks = reinterpret_cast<kvpool_check*>(region + region_bytes - sizeof(kvpool_check));
  EXPECT_EQ(client.run(kvpool_retrieve, request).status(), KVPOOL_INVALID_ARGUMENT);
  unpin(client, pin);
}

TEST_F(InPlace, MemoryRangesHoldWhatThePoolTook) {
  EXPECT_EQ(kvpool_memory_ranges(nullptr, nullptr, 0), 0U);
  open(config({"memory", "file"}));
  EXPECT_EQ(kvpool_memory_ranges(pool_, nullptr, 0), 3U);  // staging, buffers, the device
  EXPECT_EQ(kvpool_memory_ranges(pool_, nullptr, 3), 3U);
  kvpool_memory one[2] = {};
  EXPECT_EQ(kvpool_memory_ranges(pool_, one, 1), 3U);
  EXPECT_NE(one[0].base, nullptr);
  EXPECT_EQ(one[1].base, nullptr);
  uint64_t bytes = 0;
  for (const auto& range : ranges()) bytes += range.size();
  EXPECT_EQ(bytes, uint64_t{8 + 16 + 32} << 20);
  Client client(pool_);
  EXPECT_TRUE(is_in_pool(client.allocate(4096)));
}

}  // namespace
}  // namespace kvpool::api_test
