#include "io/fault_device.h"

#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <optional>

#include "io/test_device.h"

namespace kvpool {
namespace {

using std::chrono::milliseconds;

struct Faulty {
  explicit Faulty(const FaultOptions& options, bool in_place = false) {
    auto device = std::make_unique<TestDevice>(in_place);
    lower = device.get();
    faulty.emplace(std::move(device), options, clock);
  }
  IoCompletion read(uint64_t tag = 1) {
    EXPECT_TRUE(faulty->submit(request_of(IoKind::read, 4096, tag, buffer.data())));
    EXPECT_EQ(faulty->poll(out), 1U);
    EXPECT_EQ(out[0].tag, tag);
    return out[0];
  }
  // Bits in which `bytes` differ from what the device was filled with.
  static int wrong_bits(std::span<const std::byte> bytes) {
    int bits = 0;
    for (const std::byte b : bytes) bits += std::popcount(static_cast<unsigned>(b ^ std::byte{0x11}));
    return bits;
  }

  VirtualClock clock;
  TestDevice* lower = nullptr;
  std::optional<FaultDevice> faulty;
  std::vector<std::byte> buffer = std::vector<std::byte>(4096);
  std::array<IoCompletion, 16> out;
};

TEST(FaultDevice, WithoutFaultsChangesNothing) {
  Faulty device({});
  const IoCompletion done = device.read(9);
  EXPECT_EQ(done.code, Errc::ok);
  EXPECT_EQ(done.bytes, 4096U);
  EXPECT_EQ(Faulty::wrong_bits(device.buffer), 0);
  EXPECT_EQ(device.faulty->next_event_time(), never);
}

TEST(FaultDevice, FollowsItsScript) {
  Faulty device({});
  device.faulty->script(IoKind::read, 2, Fault::fail);
  device.faulty->script(IoKind::read, 3, Fault::short_io);
  device.faulty->script(IoKind::write, 1, Fault::fail);
  EXPECT_EQ(device.read().code, Errc::ok);
  EXPECT_EQ(device.read().code, Errc::io_error);
  const IoCompletion cut = device.read();
  EXPECT_EQ(cut.code, Errc::short_io);
  EXPECT_EQ(cut.bytes, 2048U);
  EXPECT_EQ(device.read().code, Errc::ok);
  ASSERT_TRUE(device.faulty->submit(request_of(IoKind::write, 4096, 5, device.buffer.data())));
  ASSERT_EQ(device.faulty->poll(device.out), 1U);
  EXPECT_EQ(device.out[0].code, Errc::io_error);
  EXPECT_EQ(device.faulty->count(Fault::fail), 2U);
}

TEST(FaultDevice, CorruptsWhatIsReadNotWhatIsStored) {
  for (const bool in_place : {false, true}) {
    Faulty device({}, in_place);
    device.faulty->script(IoKind::read, 1, Fault::corrupt);
    const IoCompletion done = device.read();
    EXPECT_EQ(done.code, Errc::ok);
    EXPECT_EQ(done.bytes, 4096U);
    const std::byte* const got = in_place ? done.in_place : device.buffer.data();
    EXPECT_EQ(Faulty::wrong_bits({got, 64}), 1);
    EXPECT_EQ(Faulty::wrong_bits({got, 4096}), 1);
    EXPECT_EQ(Faulty::wrong_bits(device.lower->bytes()), 0);
    const IoCompletion again = device.read();
    EXPECT_EQ(Faulty::wrong_bits({in_place ? again.in_place : device.buffer.data(), 4096}), 0);
  }
}

TEST(FaultDevice, CorruptsTheMediaWhenAsked) {
  Faulty device({.corrupt_media = true}, true);
  device.faulty->script(IoKind::read, 1, Fault::corrupt);
  EXPECT_EQ(device.read().in_place, device.lower->bytes().data());
  EXPECT_EQ(Faulty::wrong_bits(device.lower->bytes()), 1);
}

TEST(FaultDevice, IsLateByTheClock) {
  Faulty device({.late_by = milliseconds(7)});
  device.faulty->script(IoKind::read, 1, Fault::late);
  ASSERT_TRUE(device.faulty->submit(request_of(IoKind::read, 4096, 1, device.buffer.data())));
  EXPECT_EQ(device.read(2).code, Errc::ok);
  EXPECT_EQ(device.faulty->next_event_time(), milliseconds(7));
  device.clock.advance_to(milliseconds(7) - Nanos{1});
  EXPECT_EQ(device.faulty->poll(device.out), 0U);
  device.clock.advance_to(milliseconds(7));
  ASSERT_EQ(device.faulty->poll(device.out), 1U);
  EXPECT_EQ(device.out[0].tag, 1U);
  EXPECT_EQ(device.out[0].code, Errc::ok);
}

TEST(FaultDevice, AStuckReadWritesItsBufferWhenItIsReleased) {
  Faulty device({});
  device.faulty->script(IoKind::read, 1, Fault::stuck);
  ASSERT_TRUE(device.faulty->submit(request_of(IoKind::read, 4096, 1, device.buffer.data())));
  device.clock.advance_to(std::chrono::hours(1));
  EXPECT_EQ(device.faulty->poll(device.out), 0U);
  EXPECT_EQ(device.faulty->next_event_time(), never);
  EXPECT_EQ(device.faulty->stuck(), 1U);
  EXPECT_EQ(device.buffer[0], std::byte{0});
  device.faulty->release_stuck();
  EXPECT_NE(device.faulty->next_event_time(), never);
  ASSERT_EQ(device.faulty->poll(device.out), 1U);
  EXPECT_EQ(device.out[0].code, Errc::ok);
  EXPECT_EQ(device.buffer[0], std::byte{0x11});
}

TEST(FaultDevice, StuckRequestsFillTheQueue) {
  Faulty device({.stuck = 1});
  for (uint64_t tag = 0; tag < 16; ++tag) {
    ASSERT_TRUE(device.faulty->submit(request_of(IoKind::read, 4096, tag, device.buffer.data())));
  }
  EXPECT_FALSE(device.faulty->submit(request_of(IoKind::read, 4096, 16, device.buffer.data())));
  device.faulty->release_stuck();
  EXPECT_EQ(device.faulty->poll(device.out), 16U);
}

TEST(FaultDevice, TriesAgainWhenTheLowerDeviceIsDoneDiscarding) {
  Faulty device({.late_by = milliseconds(1)}, true);
  device.faulty->script(IoKind::write, 1, Fault::fail);
  device.faulty->script(IoKind::write, 2, Fault::late);
  device.lower->refuse_writes();
  EXPECT_FALSE(device.faulty->submit(request_of(IoKind::write, 4096, 1)));
  EXPECT_EQ(device.faulty->poll(device.out), 0U);
  ASSERT_TRUE(device.faulty->submit(request_of(IoKind::write, 4096, 1)));
  ASSERT_EQ(device.faulty->poll(device.out), 1U);
  EXPECT_EQ(device.out[0].code, Errc::io_error) << "the fault that was drawn for it";
  ASSERT_TRUE(device.faulty->submit(request_of(IoKind::write, 4096, 2)));
  device.clock.advance_to(milliseconds(1));
  device.lower->refuse_writes();
  EXPECT_EQ(device.faulty->poll(device.out), 0U);
  ASSERT_EQ(device.faulty->poll(device.out), 1U);
  EXPECT_EQ(device.out[0].code, Errc::ok);
}

std::vector<Errc> outcomes(uint64_t seed) {
  Faulty device({.seed = seed, .fail = 0.2, .short_io = 0.1});
  std::vector<Errc> codes;
  for (int i = 0; i < 1000; ++i) codes.push_back(device.read().code);
  return codes;
}

TEST(FaultDevice, TheSeedDecides) {
  const std::vector<Errc> codes = outcomes(1);
  EXPECT_EQ(codes, outcomes(1));
  EXPECT_NE(codes, outcomes(2));
  EXPECT_NEAR(static_cast<double>(std::count(codes.begin(), codes.end(), Errc::io_error)), 200.0, 50.0);
  EXPECT_NEAR(static_cast<double>(std::count(codes.begin(), codes.end(), Errc::short_io)), 100.0, 40.0);
}

}  // namespace
}  // namespace kvpool
