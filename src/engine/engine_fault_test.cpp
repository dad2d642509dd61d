// The engine on devices that fail, stand still or are odd: what a request's neighbours must not notice.

#include "engine/engine.h"
#include "engine/engine_fixture.h"

namespace kvpool {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

class EngineFaultTest : public EngineFixture {
 protected:
  [[nodiscard]] bool is_there(uint32_t document, uint32_t block) {
    return catalog->find(NamespaceId(0), key(document, block)) != no_block;
  }
  // The bytes of a segment's first residence as its device has them.
  [[nodiscard]] std::span<std::byte> medium(uint32_t document, uint32_t block, uint32_t segment) {
    const BlockId id = catalog->find(NamespaceId(0), key(document, block));
    std::array<Place, segments_max> places;
    catalog->pin(id);
    catalog->places(id, 0, places);
    catalog->unpin(id);
    return media[places[segment].device.value]->bytes().subspan(places[segment].offset.value);
  }
  [[nodiscard]] static Submission within(Submission message, Nanos time) {
    message.timeout_ns = static_cast<uint64_t>(time.count());
    return message;
  }
  void step_until_result(uint16_t slot) {
    while (!ends(slot).result && !HasFatalFailure()) step();
  }
  void release_all() {
    for (const auto& fault : faults) fault->release_stuck();
    while (!engine->is_idle() && !HasFatalFailure()) step();
  }
};

// A drive reads in its own units, into places in memory whose units are smaller.
TEST_F(EngineFaultTest, StagingFromADriveOfLargerSectorsHurtsNoNeighbour) {
  SimDeviceOptions large_sectors = drive();
  large_sectors.alignment_bytes = 16384;
  ASSERT_NO_FATAL_FAILURE(
      open({.devices = {host_memory(), large_sectors}, .shares = {0.5, 0.5}}, uniform(4)));
  for (uint32_t document = 0; document < 3; ++document) ASSERT_NO_FATAL_FAILURE(store(document, 8));
  for (uint32_t document = 0; document < 3; ++document) {
    Submission stage = message(Op::stage, document, 8);
    stage.pin = pin(document, 8);
    EXPECT_EQ(finish(send(stage)).code, Errc::ok);
  }
  wipe();
  for (uint32_t document = 0; document < 3; ++document) {
    const Completion done = finish(send(message(Op::retrieve, document, 8)));
    EXPECT_EQ(done.blocks, 8) << document;
    for (uint32_t i = 0; i < 32; ++i) EXPECT_TRUE(is_right(document, i / 4, i % 4)) << document << ' ' << i;
  }
  EXPECT_EQ(engine->counters().checksum_errors, 0);
}

TEST_F(EngineFaultTest, WhatFillsASegmentUpToTheDevicesUnitIsZero) {
  Geometry geometry = uniform(2);  // of which the larger leaves its bytes behind in staging
  geometry.segment_bytes = {1000, 3000};
  ASSERT_NO_FATAL_FAILURE(open({.devices = {drive()}, .shares = {1}}, geometry));
  for (uint32_t document = 0; document < 2; ++document) ASSERT_NO_FATAL_FAILURE(store(document, 40));
  for (uint32_t block = 0; block < 40; ++block) {
    const std::span<std::byte> bytes = medium(1, block, 0);
    EXPECT_EQ(bytes[999], payload(1, block, 0));
    EXPECT_TRUE(
        std::ranges::all_of(bytes.subspan(1000, 4096 - 1000), [](std::byte b) { return b == std::byte{0}; }));
  }
}

// A store whose write never comes back: the key is not its own any more once its result is out.
TEST_F(EngineFaultTest, AKeyWhoseWriteIsLostCanBeStoredAgainAtOnce) {
  ASSERT_NO_FATAL_FAILURE(open({.devices = {drive()}, .shares = {1}}, uniform(2)));
  write_payload(0, 4);
  faults[0]->script(IoKind::write, 5, Fault::stuck);
  const uint16_t lost = send(within(message(Op::store, 0, 4), milliseconds(5)));
  ASSERT_NO_FATAL_FAILURE(step_until_result(lost));
  EXPECT_EQ(ends(lost).result->code, Errc::timed_out);
  EXPECT_LT(ends(lost).result->blocks, 4);
  EXPECT_FALSE(ends(lost).released_at);
  const Nanos sent_at = clock.now();
  const uint16_t again = send(message(Op::store, 0, 4));
  const Completion done = finish(again);
  EXPECT_EQ(done.code, Errc::ok);
  EXPECT_EQ(done.blocks, 4);
  EXPECT_LT(ends(again).result_at - sent_at, milliseconds(5));
  catalog->check();
  // What comes home late does not touch what was stored meanwhile.
  ASSERT_NO_FATAL_FAILURE(release_all());
  EXPECT_TRUE(ends(lost).released_at);
  wipe();
  EXPECT_EQ(finish(send(message(Op::retrieve, 0, 4))).blocks, 4);
  for (uint32_t i = 0; i < 8; ++i) EXPECT_TRUE(is_right(0, i / 2, i % 2)) << i;
  EXPECT_EQ(finish(send(message(Op::remove, 0, 1))).blocks, 4);
  EXPECT_EQ(catalog->usage().device_used_bytes[0], 0);
}

TEST_F(EngineFaultTest, AStageDoesNotWaitForOneThatIsLost) {
  ASSERT_NO_FATAL_FAILURE(open({.devices = {host_memory(), drive()}, .shares = {0.25, 0.75}}, uniform(4)));
  ASSERT_NO_FATAL_FAILURE(store(0, 4));
  Submission stage = message(Op::stage, 0, 4);
  stage.pin = pin(0, 4);
  faults[1]->script(IoKind::read, 1, Fault::stuck);
  const uint16_t lost = send(within(stage, milliseconds(5)));
  ASSERT_NO_FATAL_FAILURE(step_until_result(lost));
  EXPECT_EQ(ends(lost).result->code, Errc::timed_out);
  const Nanos sent_at = clock.now();
  const uint16_t again = send(stage);
  EXPECT_EQ(finish(again).code, Errc::rejected);
  EXPECT_LT(ends(again).result_at - sent_at, milliseconds(5));
  catalog->check();
  ASSERT_NO_FATAL_FAILURE(release_all());
  EXPECT_EQ(finish(send(stage)).code, Errc::ok);
  catalog->check();
}

// Nothing can be verified there, so nothing is found to be wrong.
TEST_F(EngineFaultTest, StagingFromADeviceThatKeepsNoBytesGivesNoBlockUp) {
  SimDeviceOptions null = drive();
  null.keeps_bytes = false;
  ASSERT_NO_FATAL_FAILURE(open({.devices = {host_memory(), null}, .shares = {0.5, 0.5}}, uniform(4)));
  ASSERT_NO_FATAL_FAILURE(store(0, 4));
  Submission stage = message(Op::stage, 0, 4);
  stage.pin = pin(0, 4);
  EXPECT_EQ(finish(send(stage)).code, Errc::ok);
  EXPECT_TRUE(is_there(0, 3));
}

TEST_F(EngineFaultTest, ABlockThatCannotBeReadIsGoneWithWhatFollowsIt) {
  ASSERT_NO_FATAL_FAILURE(open({.devices = {drive()}, .shares = {1}}, uniform(2)));
  for (const Fault fault : {Fault::fail, Fault::short_io}) {
    ASSERT_NO_FATAL_FAILURE(store(0, 4));
    const uint64_t read = engine->device_counters(DeviceId(0)).reads;
    faults[0]->script(IoKind::read, 3, fault);  // layer by layer: the third block's first segment
    const Completion done = finish(send(message(Op::retrieve, 0, 4)));
    EXPECT_EQ(done.code, Errc::miss);
    EXPECT_EQ(done.blocks, 2);
    EXPECT_GT(engine->device_counters(DeviceId(0)).reads, read);
    EXPECT_TRUE(is_there(0, 1));
    EXPECT_FALSE(is_there(0, 2) || is_there(0, 3));
  }
}

TEST_F(EngineFaultTest, NothingIsPlacedOnADeviceThatIsAway) {
  ASSERT_NO_FATAL_FAILURE(
      open({.devices = {host_memory(), drive(), drive()}, .shares = {0.2, 0.4, 0.4}}, uniform(4)));
  ASSERT_NO_FATAL_FAILURE(store(0, 8));
  faults[1]->go_away();
  const size_t given = devices[1]->kinds.size();
  ASSERT_NO_FATAL_FAILURE(store(1, 8));
  EXPECT_EQ(devices[1]->kinds.size(), given);
  EXPECT_EQ(finish(send(message(Op::retrieve, 1, 8))).code, Errc::ok);
  // What lies on it is a miss, and no hang.
  EXPECT_EQ(finish(send(message(Op::retrieve, 0, 8))).code, Errc::miss);
  faults[1]->come_back();
  ASSERT_NO_FATAL_FAILURE(store(2, 8));
  EXPECT_GT(devices[1]->kinds.size(), given + 1);
}

TEST_F(EngineFaultTest, WithAllDevicesAwayNothingIsEvictedForNothing) {
  ASSERT_NO_FATAL_FAILURE(open({.devices = {drive()}, .shares = {1}}, uniform(4)));
  ASSERT_NO_FATAL_FAILURE(store(0, 8));
  faults[0]->go_away();
  engine->step();
  EXPECT_EQ(finish(send(message(Op::store, 1, 8))).code, Errc::rejected);
  faults[0]->come_back();
  EXPECT_EQ(finish(send(message(Op::retrieve, 0, 8))).code, Errc::ok);
}

TEST_F(EngineFaultTest, BytesThatWereHurtOnTheirWayAreReadAgain) {
  ASSERT_NO_FATAL_FAILURE(open({.devices = {host_memory(), drive()}, .shares = {0.25, 0.75}}, uniform(4)));
  ASSERT_NO_FATAL_FAILURE(store(0, 4));
  wipe();
  faults[1]->script(IoKind::read, 2, Fault::corrupt);
  EXPECT_EQ(finish(send(message(Op::retrieve, 0, 4))).code, Errc::ok);
  for (uint32_t i = 0; i < 16; ++i) EXPECT_TRUE(is_right(0, i / 4, i % 4)) << i;
  EXPECT_EQ(engine->counters().checksum_errors, 1);
  Submission stage = message(Op::stage, 0, 4);
  stage.pin = pin(0, 4);
  faults[1]->script(IoKind::read, 2, Fault::corrupt);
  EXPECT_EQ(finish(send(stage)).code, Errc::ok);
  EXPECT_EQ(engine->counters().checksum_errors, 2);
  wipe();
  EXPECT_EQ(finish(send(message(Op::retrieve, 0, 4))).code, Errc::ok);
  for (uint32_t i = 0; i < 16; ++i) EXPECT_TRUE(is_right(0, i / 4, i % 4)) << i;
  EXPECT_EQ(engine->staging_used_bytes(), 0);
}

TEST_F(EngineFaultTest, TheFirstBlockThatADeviceSpoiledIsLogged) {
  ASSERT_NO_FATAL_FAILURE(open({.devices = {drive()}, .shares = {1}}, uniform(1)));
  testing::internal::CaptureStderr();
  for (uint32_t chain = 0; chain < 2; ++chain) {
    ASSERT_NO_FATAL_FAILURE(store(chain, 1));
    faults[0]->script(IoKind::read, 1, Fault::corrupt);
    faults[0]->script(IoKind::read, 2, Fault::corrupt);
    EXPECT_EQ(finish(send(message(Op::retrieve, chain, 1))).code, Errc::miss);
  }
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_EQ(engine->counters().checksum_errors, 4);
  const size_t at = log.find(devices[0]->name() + ": bytes do not match their checksum");
  ASSERT_NE(at, std::string::npos) << log;
  EXPECT_EQ(log.find("do not match", log.find('\n', at)), std::string::npos) << log;
}

// Two segments into one buffer: the consumer's own fault costs nobody a good block.
TEST_F(EngineFaultTest, AConsumerThatNamesABufferTwiceLosesNoBlock) {
  // Sums are slow, so that what comes next into the buffer is there before the sum is made.
  ASSERT_NO_FATAL_FAILURE(
      open({.devices = {drive()}, .shares = {1}, .transfer = {.sum_bytes_per_second = 1e8}}, uniform(2)));
  ASSERT_NO_FATAL_FAILURE(store(0, 8));
  Submission retrieve = message(Op::retrieve, 0, 8);
  auto* addresses = port.regions.resolve_array<RegionAddress>(retrieve.buffers, 16);
  std::fill_n(addresses, 16, addresses[0]);
  EXPECT_EQ(finish(send(retrieve)).code, Errc::ok);
  EXPECT_GT(engine->counters().checksum_errors, 0);
  EXPECT_TRUE(is_there(0, 7));
  wipe();
  EXPECT_EQ(finish(send(message(Op::retrieve, 0, 8))).code, Errc::ok);
  for (uint32_t i = 0; i < 16; ++i) EXPECT_TRUE(is_right(0, i / 2, i % 2)) << i;
}

// What is not wanted any more is not read again, and so nothing is known of the block.
TEST_F(EngineFaultTest, AConsumerThatNamesABadAddressTooLosesNoBlock) {
  ASSERT_NO_FATAL_FAILURE(
      open({.devices = {drive()}, .shares = {1}, .transfer = {.sum_bytes_per_second = 1e8}}, uniform(2)));
  ASSERT_NO_FATAL_FAILURE(store(0, 8));
  Submission retrieve = message(Op::retrieve, 0, 8);
  auto* addresses = port.regions.resolve_array<RegionAddress>(retrieve.buffers, 16);
  std::fill_n(addresses, 16, addresses[0]);
  addresses[3] = no_address;  // block 1, segment 1
  EXPECT_EQ(finish(send(retrieve)).code, Errc::invalid_argument);
  for (uint32_t block = 0; block < 8; ++block) EXPECT_TRUE(is_there(0, block)) << block;
}

TEST_F(EngineFaultTest, ASegmentOfTooManyPiecesIsRefusedWithItsNamespace) {
  SimDeviceOptions small_pieces = drive();
  small_pieces.alignment_bytes = small_pieces.transfer_bytes_max = 512;
  Geometry geometry = uniform(1);
  geometry.segment_bytes = {pieces_max * 512};
  ASSERT_NO_FATAL_FAILURE(open({.devices = {small_pieces}, .shares = {1}}, geometry));
  ASSERT_NO_FATAL_FAILURE(store(0, 1));
  geometry.segment_bytes = {(pieces_max + 1) * 512};
  EXPECT_FALSE(engine->add_namespace(geometry, false));
}

class LostReadTest : public EngineFaultTest {
 protected:
  static constexpr uint32_t window_bytes = 8 * segment_bytes;

  // One read is lost, and for good: beside it a large write has no room in the device's window.
  void SetUp() override {
    Geometry geometry = uniform(4);
    geometry.segment_bytes[3] = window_bytes;
    ASSERT_NO_FATAL_FAILURE(open({.devices = {drive(1e9, microseconds(1))},
                                  .shares = {1},
                                  .window_bytes = window_bytes,
                                  .verify = Verify::none},
                                 geometry));
    ASSERT_NO_FATAL_FAILURE(store(0, 16));
    read_ = message(Op::retrieve, 0, 16);
    read_.segment_count = 1;
    faults[0]->script(IoKind::read, 1, Fault::stuck);
    send(within(read_, milliseconds(1)));
    write_payload(1, 1);
    writing_ = send(message(Op::store, 1, 1));
    for (int i = 0; i < 200; ++i) {
      (void)engine->step();
      clock.advance_to(clock.now() + microseconds(10));
    }
    ASSERT_FALSE(ends(writing_).result);
  }

  Submission read_;
  uint16_t writing_ = 0;
};

TEST_F(LostReadTest, ReadsDoNotWaitForEverForAWriteThatHasNoRoom) {
  const Nanos sent_at = clock.now();
  const uint16_t reading = send(read_);
  EXPECT_EQ(finish(reading).code, Errc::ok);
  EXPECT_LT(ends(reading).result_at - sent_at, milliseconds(300));
  ASSERT_NO_FATAL_FAILURE(release_all());
  EXPECT_EQ(ends(writing_).result->code, Errc::ok);
}

TEST_F(LostReadTest, AnUrgentReadDoesNotWaitForAWrite) {
  const uint16_t reading = send(within(read_, milliseconds(10)));
  EXPECT_EQ(finish(reading).code, Errc::ok);
}

TEST_F(EngineFaultTest, ARetrieveIsUrgentWhenTwiceItsTimeIsLeft) {
  // 1 MB/s: a segment takes 4 ms.
  ASSERT_NO_FATAL_FAILURE(
      open({.devices = {drive(1e6, microseconds(10))}, .shares = {1}, .window_bytes = 4096, .tickets_max = 8},
           uniform(1)));
  ASSERT_NO_FATAL_FAILURE(store(0, 64));
  for (int i = 0; i < 5; ++i) send(message(Op::retrieve, 0, 64));
  step();
  // 16 segments alone need 66 ms; in fair turns with the five others they need 390.
  EXPECT_EQ(finish(send(within(message(Op::retrieve, 0, 16), milliseconds(250)))).code, Errc::ok);
}

TEST_F(EngineFaultTest, ATicketThatStallsAgainIsNamedAgain) {
  ASSERT_NO_FATAL_FAILURE(open({.devices = {drive()}, .shares = {1}, .window_bytes = 4096}, uniform(1)));
  write_payload(0, 2);
  faults[0]->script(IoKind::write, 1, Fault::stuck);
  faults[0]->script(IoKind::write, 2, Fault::stuck);
  const uint16_t slot = send(within(message(Op::store, 0, 2), std::chrono::seconds(60)));
  const auto pass_seven_seconds = [&] {
    for (int i = 0; i < 7; ++i) {
      clock.advance_to(clock.now() + std::chrono::seconds(1));
      while (engine->step()) {
      }
    }
  };
  pass_seven_seconds();
  EXPECT_EQ(engine->counters().stalled_tickets, 1);
  faults[0]->release_stuck();
  pass_seven_seconds();
  EXPECT_EQ(faults[0]->stuck(), 1U);
  EXPECT_EQ(engine->counters().stalled_tickets, 2);
  ASSERT_NO_FATAL_FAILURE(release_all());
  EXPECT_EQ(ends(slot).result->code, Errc::ok);
}

// A consumer that holds all its slots, and takes no completion for as long as it may.
TEST_F(EngineFaultTest, AConsumerThatKeepsToItsSlotsIsNotClosed) {
  ASSERT_NO_FATAL_FAILURE(open({.devices = {drive()}, .shares = {1}}, uniform(1)));
  ASSERT_NO_FATAL_FAILURE(store(0, 8));
  const auto push = [&](Op op, uint16_t slot, Nanos time) {
    Submission out = within(message(op, 0, 8), time);
    out.slot = slot;
    ASSERT_TRUE(port.channel.submissions.push(out));
    (void)engine->step();
  };
  for (uint16_t slot = 0; slot < 8; ++slot) {
    faults[0]->script(IoKind::read, slot + 1, Fault::stuck);
    push(Op::retrieve, slot, milliseconds(1));
  }
  clock.advance_to(clock.now() + milliseconds(2));
  (void)engine->step();
  EXPECT_EQ(engine->counters().timed_out_requests, 8);
  for (uint16_t slot = 8; slot < slots_max; ++slot) push(Op::match, slot, milliseconds(1));
  for (uint16_t slot = 0; slot < slots_max; ++slot) push(Op::cancel, slot, milliseconds(1));
  EXPECT_FALSE(port.closing);
  EXPECT_EQ(engine->counters().invalid_requests, 0);
  EXPECT_EQ(port.channel.completions.room(), 8U);
  // One more is against the rules: there is no slot for it, and no room for its completions.
  push(Op::match, 0, milliseconds(1));
  EXPECT_TRUE(port.closing);
  faults[0]->release_stuck();
  Completion completion;
  for (int i = 0; i < 100; ++i) {
    while (port.channel.completions.pop(completion)) {
    }
    (void)engine->step();
    clock.advance_to(clock.now() + milliseconds(1));
  }
  EXPECT_TRUE(port.drained);
  EXPECT_EQ(port.owed, 0U);
}

}  // namespace
}  // namespace kvpool
