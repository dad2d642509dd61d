#include "engine/engine.h"

#include "base/units.h"
#include "engine/engine_fixture.h"

namespace kvpool {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

class EngineTest : public EngineFixture {};

TEST_F(EngineTest, AResultComesAtItsDeadlineAndTheReleaseWhenTheDeviceIsDone) {
  ASSERT_NO_FATAL_FAILURE(open({.devices = {drive(1e9, milliseconds(10))}, .shares = {1}}, uniform(4)));
  ASSERT_NO_FATAL_FAILURE(store(0, 2));
  Submission retrieve = message(Op::retrieve, 0, 2);
  retrieve.timeout_ns = 3'000'007;
  const Nanos sent_at = clock.now();
  const uint16_t slot = send(retrieve);
  retrieve.timeout_ns = 2'000'003;
  const uint16_t earlier = send(retrieve);
  EXPECT_EQ(finish(slot).code, Errc::timed_out);
  EXPECT_EQ(ends(slot).result_at, sent_at + Nanos(3'000'007));
  EXPECT_EQ(ends(earlier).result_at, sent_at + Nanos(2'000'003));
  EXPECT_GE(*ends(slot).released_at, sent_at + milliseconds(10));
  EXPECT_EQ(finish(earlier).code, Errc::timed_out);
  EXPECT_EQ(engine->counters().timed_out_requests, 2);
  EXPECT_EQ(engine->staging_used_bytes(), 0);
}

TEST_F(EngineTest, ARequestBeyondTheTicketsIsBusyAndTheNextOneIsServed) {
  ASSERT_NO_FATAL_FAILURE(open({.devices = {drive()}, .shares = {1}, .tickets_max = 2}, uniform(2)));
  ASSERT_NO_FATAL_FAILURE(store(0, 4));
  std::array<uint16_t, 3> slots;
  for (uint16_t& slot : slots) slot = send(message(Op::retrieve, 0, 4));
  step();
  ASSERT_TRUE(ends(slots[2]).result.has_value());
  EXPECT_EQ(ends(slots[2]).result->code, Errc::busy);
  EXPECT_TRUE(ends(slots[2]).released_at.has_value());
  EXPECT_FALSE(ends(slots[0]).result.has_value());
  EXPECT_EQ(engine->counters().busy_requests, 1);
  EXPECT_EQ(finish(slots[0]).code, Errc::ok);
  EXPECT_EQ(finish(slots[1]).code, Errc::ok);
  EXPECT_EQ(finish(send(message(Op::retrieve, 0, 4))).blocks, 4);
  EXPECT_EQ(engine->pins().in_use(), 0);
}

TEST_F(EngineTest, KeepsAllWorkersBusyWithLargeSegments) {
  constexpr uint32_t workers = 32;
  SimDeviceOptions memory = host_memory();
  memory.size_bytes = 64 * mib;
  memory.read_bytes_per_second = 1e12;
  ASSERT_NO_FATAL_FAILURE(open({.devices = {memory},
                                .shares = {1},
                                .window_bytes = 0,
                                .transfer = {.workers = workers, .copy_bytes_per_second = mib * 1e3},
                                .transfer_workers = workers},
                               {.name = "large", .segment_bytes = {mib}}));
  ASSERT_NO_FATAL_FAILURE(store(0, workers));
  const Nanos sent_at = clock.now();
  const uint16_t slot = send(message(Op::retrieve, 0, workers));
  EXPECT_EQ(finish(slot).blocks, workers);
  // A copy takes 1 ms, and nobody copies twice.
  EXPECT_LT(ends(slot).result_at - sent_at, microseconds(1900));
}

TEST_F(EngineTest, WhatMemoryHasNoRoomForSpillsByTheShares) {
  SimDeviceOptions memory = host_memory();
  memory.size_bytes = 512 << 10;
  ASSERT_NO_FATAL_FAILURE(
      open({.devices = {memory, drive(), drive()}, .shares = {0.8, 0.15, 0.05}}, uniform(8)));
  ASSERT_NO_FATAL_FAILURE(store(0, 64));
  const std::vector<uint64_t> used = catalog->usage().device_used_bytes;
  EXPECT_EQ(used[0], memory.size_bytes);
  EXPECT_NEAR(static_cast<double>(used[1]) / static_cast<double>(used[1] + used[2]), 0.75, 0.02);
}

TEST_F(EngineTest, WritesGiveWayToReadsButAreNotStarved) {
  ASSERT_NO_FATAL_FAILURE(open(
      {.devices = {drive()}, .shares = {1}, .window_bytes = 4 * 4096, .verify = Verify::none}, uniform(8)));
  ASSERT_NO_FATAL_FAILURE(store(0, 40));
  const uint16_t reading = send(message(Op::retrieve, 0, 40));
  step();
  write_payload(1, 8);
  const uint16_t writing = send(message(Op::store, 1, 8));
  devices[0]->kinds.clear();
  finish(reading);
  const std::vector<IoKind> kinds = devices[0]->kinds;
  const auto last_read = std::ranges::find(kinds.rbegin(), kinds.rend(), IoKind::read).base();
  uint32_t reads = DeviceQueue::reads_per_write;
  uint32_t writes = 0;
  for (auto it = kinds.begin(); it != last_read; ++it) {
    if (*it == IoKind::read) {
      ++reads;
      continue;
    }
    EXPECT_GE(reads, DeviceQueue::reads_per_write);
    reads = 0;
    ++writes;
  }
  // 320 reads: a turn for a write after each eight, two turns a write (to be prepared, to be sent).
  EXPECT_GE(writes, 15);
  EXPECT_EQ(finish(writing).blocks, 8);
}

// The window of a device that small reads keep full never has room for a large write by itself.
class LargeWriteTest : public EngineFixture {
 protected:
  void write_beside_small_reads(const SimDeviceOptions& device) {
    const uint32_t window_bytes = 8 * segment_bytes;
    Geometry geometry = uniform(4);
    geometry.segment_bytes[3] = window_bytes;
    ASSERT_NO_FATAL_FAILURE(
        open({.devices = {device}, .shares = {1}, .window_bytes = window_bytes, .verify = Verify::none},
             geometry));
    ASSERT_NO_FATAL_FAILURE(store(0, 16));
    Submission read = message(Op::retrieve, 0, 16);
    read.segment_count = 1;
    std::array<uint16_t, 4> reading;
    for (uint16_t& slot : reading) slot = send(read);
    write_payload(1, 1);
    const uint16_t writing = send(message(Op::store, 1, 1));
    for (uint32_t reads = 0; !ends(writing).released_at && reads < 150;) {
      ASSERT_NO_FATAL_FAILURE(step());
      for (uint16_t& slot : reading) {
        if (!ends(slot).released_at) continue;
        slot = send(read);
        ++reads;
      }
    }
    EXPECT_TRUE(ends(writing).released_at);
  }
};

TEST_F(LargeWriteTest, IsNotStarvedByAStreamOfSmallReads) { write_beside_small_reads(drive()); }
TEST_F(LargeWriteTest, IsNotStarvedInMemoryEither) { write_beside_small_reads(host_memory()); }

// The second takes the first one's place in all tables.
TEST_F(LargeWriteTest, NorIsTheNextOne) {
  const uint32_t window_bytes = 8 * segment_bytes;
  Geometry geometry = uniform(2);
  geometry.segment_bytes[1] = window_bytes;
  ASSERT_NO_FATAL_FAILURE(open({.devices = {drive(1e7, microseconds(10))},
                                .shares = {1},
                                .window_bytes = window_bytes,
                                .verify = Verify::none},
                               geometry));
  ASSERT_NO_FATAL_FAILURE(store(0, 64));
  Submission read = message(Op::retrieve, 0, 64);
  read.segment_count = 1;
  std::array<uint16_t, 3> reading;
  for (uint16_t& slot : reading) slot = send(read);
  const auto read_on = [&] {
    step();
    for (uint16_t& slot : reading) {
      if (ends(slot).released_at) slot = send(read);
    }
  };
  for (uint32_t document = 1; document < 3; ++document) {
    write_payload(document, 1);
    const Nanos sent_at = clock.now();
    const uint16_t writing = send(message(Op::store, document, 1));
    while (!ends(writing).released_at && clock.now() - sent_at < milliseconds(500)) read_on();
    EXPECT_TRUE(ends(writing).released_at) << document;
    const Nanos until = clock.now() + milliseconds(300);
    while (clock.now() < until) read_on();
  }
}

// As GPT-OSS: every other layer is a window, of which the last block's alone is loaded.
TEST_F(EngineTest, AfterACutTheWindowsOfTheBlockThatIsNowTheLastAreLoaded) {
  Geometry geometry = uniform(4);
  geometry.window = {true, false, true, false};
  ASSERT_NO_FATAL_FAILURE(open({.devices = {drive(), drive()}, .shares = {0.5, 0.5}}, geometry));
  ASSERT_NO_FATAL_FAILURE(store(0, 6));
  const BlockId bad = catalog->find(NamespaceId(0), key(0, 3));
  ASSERT_NE(bad, no_block);
  std::array<Place, segments_max> places;
  catalog->pin(bad);
  catalog->places(bad, 0, places);
  catalog->unpin(bad);
  media[places[1].device.value]->bytes()[places[1].offset.value + 100] ^= std::byte{4};
  wipe();
  const Completion done = finish(send(message(Op::retrieve, 0, 6)));
  EXPECT_EQ(done.code, Errc::miss);
  EXPECT_EQ(done.blocks, 3);
  EXPECT_EQ(done.segments, 4);
  EXPECT_EQ(done.bytes, (3 * 2 + 2) * segment_bytes);
  for (uint32_t block = 0; block < 3; ++block) {
    EXPECT_TRUE(is_right(0, block, 1) && is_right(0, block, 3)) << block;
  }
  EXPECT_TRUE(is_right(0, 2, 0) && is_right(0, 2, 2));
  EXPECT_EQ(engine->counters().checksum_errors, 2);  // it was read twice
  EXPECT_EQ(catalog->find(NamespaceId(0), key(0, 3)), no_block);
  EXPECT_EQ(catalog->find(NamespaceId(0), key(0, 5)), no_block);
  EXPECT_NE(catalog->find(NamespaceId(0), key(0, 2)), no_block);
}

SimDeviceOptions discarding_drive() {
  SimDeviceOptions options = drive();
  options.discards = true;
  return options;
}

// Whether nothing of the drive's bytes is what the store wrote there.
bool holds_none(std::span<const std::byte> media, std::byte payload) {
  constexpr size_t unit = 4096;
  for (size_t at = 0; at < media.size(); at += unit) {
    if (std::ranges::all_of(media.subspan(at, unit), [&](std::byte b) { return b == payload; })) return false;
  }
  return true;
}

TEST_F(EngineTest, WhatIsDeletedIsDiscardedOnceNobodyReadsIt) {
  ASSERT_NO_FATAL_FAILURE(open({.devices = {discarding_drive()}, .shares = {1}}, uniform(2)));
  ASSERT_NO_FATAL_FAILURE(store(0, 4));
  ASSERT_NO_FATAL_FAILURE(store(1, 4));
  const PinId held = pin(0, 4);
  EXPECT_EQ(finish(send(message(Op::remove, 0, 4))).code, Errc::ok);
  for (int i = 0; i < 100; ++i) {
    step();
    clock.advance_to(clock.now() + microseconds(100));
  }
  EXPECT_EQ(engine->device_counters(DeviceId(0)).discarded_bytes, 0U) << "it is still pinned";
  EXPECT_FALSE(holds_none(media[0]->bytes(), payload(0, 0, 0)));
  Submission unpin;
  unpin.op = Op::unpin;
  unpin.pin = held;
  EXPECT_EQ(finish(send(unpin)).code, Errc::ok);
  for (int i = 0; i < 100; ++i) {
    step();
    clock.advance_to(clock.now() + microseconds(100));
  }
  EXPECT_EQ(engine->device_counters(DeviceId(0)).discarded_bytes, 4U * 2 * segment_bytes);
  EXPECT_EQ(engine->device_counters(DeviceId(0)).discards_dropped_bytes, 0U);
  for (uint32_t block = 0; block < 4; ++block) {
    EXPECT_TRUE(holds_none(media[0]->bytes(), payload(0, block, 0)));
    EXPECT_TRUE(holds_none(media[0]->bytes(), payload(0, block, 1)));
  }
  wipe();
  EXPECT_EQ(finish(send(message(Op::retrieve, 1, 4))).blocks, 4);
  EXPECT_TRUE(is_right(1, 3, 1));
}

// A write to what the drive is discarding waits for it, and then holds.
TEST_F(EngineTest, WhatIsWrittenOverADiscardHolds) {
  SimDeviceOptions slow = discarding_drive();
  slow.discard_latency = milliseconds(5);
  ASSERT_NO_FATAL_FAILURE(open({.devices = {slow}, .shares = {1}}, uniform(2)));
  ASSERT_NO_FATAL_FAILURE(store(0, 4));
  EXPECT_EQ(finish(send(message(Op::remove, 0, 4))).code, Errc::ok);
  for (int i = 0; i < 3; ++i) (void)engine->step();
  ASSERT_GT(engine->device_counters(DeviceId(0)).discarded_bytes, 0U);
  const Nanos begin = clock.now();
  ASSERT_NO_FATAL_FAILURE(store(1, 4));
  EXPECT_GE(clock.now() - begin, milliseconds(4)) << "it was to be held back";
  wipe();
  EXPECT_EQ(finish(send(message(Op::retrieve, 1, 4))).blocks, 4);
  for (uint32_t block = 0; block < 4; ++block) EXPECT_TRUE(is_right(1, block, 0) && is_right(1, block, 1));
}

TEST_F(EngineTest, AStageWhoseDriveFailsKeepsWhatCameBeforeAndGivesTheRestBack) {
  ASSERT_NO_FATAL_FAILURE(open({.devices = {host_memory(), drive()}, .shares = {0.25, 0.75}}, uniform(4)));
  ASSERT_NO_FATAL_FAILURE(store(0, 6));
  const uint64_t used = catalog->usage().device_used_bytes[0];
  Submission stage = message(Op::stage, 0, 6);
  stage.pin = pin(0, 6);
  ASSERT_NE(stage.pin.value, 0);
  faults[1]->script(IoKind::read, 10, Fault::fail);
  const Completion done = finish(send(stage));
  EXPECT_EQ(done.code, Errc::miss);
  EXPECT_GT(done.blocks, 0);
  EXPECT_LT(done.blocks, 6);
  EXPECT_EQ(engine->counters().io_errors, 1);
  // Memory holds what was staged and nothing for the rest, though all is pinned still.
  uint64_t staged = 0;
  std::array<Place, segments_max> places;
  for (uint32_t block = 0; block < done.blocks; ++block) {
    catalog->places(catalog->find(NamespaceId(0), key(0, block)), 0, places);
    staged += static_cast<uint64_t>(std::count_if(places.begin(), places.begin() + segments,
                                                  [](const Place& p) { return p.device == DeviceId(1); }));
  }
  EXPECT_EQ(catalog->usage().device_used_bytes[0], used + staged * segment_bytes);
  catalog->check();
  // What was staged is read from memory alone; the bad block is gone.
  wipe();
  const uint64_t drive_reads = engine->device_counters(DeviceId(1)).reads;
  const Completion read = finish(send(message(Op::retrieve, 0, 6)));
  EXPECT_EQ(read.blocks, done.blocks);
  EXPECT_EQ(engine->device_counters(DeviceId(1)).reads, drive_reads);
  for (uint32_t s = 0; s < 4; ++s) EXPECT_TRUE(is_right(0, done.blocks - 1, s));
  Submission unpin;
  unpin.op = Op::unpin;
  unpin.pin = stage.pin;
  EXPECT_EQ(finish(send(unpin)).code, Errc::ok);
  Submission remove = message(Op::remove, 0, 1);
  EXPECT_EQ(finish(send(remove)).blocks, done.blocks);
  EXPECT_GT(used, 0);
  EXPECT_EQ(catalog->usage().device_used_bytes[0], 0);
  EXPECT_EQ(catalog->usage().device_used_bytes[1], 0);
  catalog->check();
}

}  // namespace
}  // namespace kvpool
