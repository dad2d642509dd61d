#include "io/cap_device.h"

#include <gtest/gtest.h>

#include <array>

#include "io/test_device.h"

namespace kvpool {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

constexpr uint64_t rate = 100'000'000;      // 100 MB/s, so that
constexpr uint64_t bucket_bytes = 1000000;  // 10 ms of it are 1 MB

TEST(TokenBucket, StartsEmptyAndFillsToTenMilliseconds) {
  TokenBucket bucket(rate, Nanos{0});
  EXPECT_FALSE(bucket.take(1, Nanos{0}));
  EXPECT_EQ(bucket.ready_at(1000, Nanos{0}), microseconds(10));
  EXPECT_FALSE(bucket.take(1000, microseconds(10) - Nanos{1}));
  EXPECT_TRUE(bucket.take(1000, microseconds(10)));
  EXPECT_FALSE(bucket.take(1, microseconds(10)));
  // An hour of idleness earns one bucket.
  const Nanos later = std::chrono::hours(1);
  EXPECT_TRUE(bucket.take(bucket_bytes, later));
  EXPECT_FALSE(bucket.take(1, later));
}

TEST(TokenBucket, ALargeTransferPassesFromAFullBucketAndLeavesADebt) {
  TokenBucket bucket(rate, Nanos{0});
  EXPECT_EQ(bucket.ready_at(3 * bucket_bytes, Nanos{0}), milliseconds(10));
  EXPECT_FALSE(bucket.take(3 * bucket_bytes, milliseconds(10) - Nanos{1}));
  EXPECT_TRUE(bucket.take(3 * bucket_bytes, milliseconds(10)));
  // 2 MB of debt are 20 ms; then 1000 bytes are 10 us more.
  EXPECT_EQ(bucket.ready_at(1000, milliseconds(10)), milliseconds(30) + microseconds(10));
}

TEST(TokenBucket, IsExactWhateverTheRateAndTheStep) {
  for (const uint64_t odd_rate : {uint64_t{1000}, uint64_t{999'999'937}, uint64_t{55'000'000'000}}) {
    TokenBucket bucket(odd_rate, Nanos{0});
    const uint64_t length = std::max<uint64_t>(1, odd_rate / 1000);
    Nanos now{0};
    uint64_t passed = 0;
    for (int i = 0; i < 2000; ++i) {
      now = bucket.ready_at(length, now);
      ASSERT_TRUE(bucket.take(length, now));
      passed += length;
    }
    const double ideal = static_cast<double>(passed) / static_cast<double>(odd_rate);
    EXPECT_NEAR(std::chrono::duration<double>(now).count() / ideal, 1.0, 1e-5) << odd_rate;
  }
}

TEST(TokenBucket, WithoutARateLetsAllPass) {
  TokenBucket bucket(std::nullopt, Nanos{0});
  EXPECT_TRUE(bucket.take(UINT64_MAX, Nanos{0}));
  EXPECT_EQ(bucket.ready_at(UINT64_MAX, Nanos{5}), Nanos{5});
}

struct Capped {
  explicit Capped(CapOptions options, bool in_place = false, uint32_t depth = 16) {
    auto device = std::make_unique<TestDevice>(in_place, depth, 8 << 20);
    lower = device.get();
    cap.emplace(std::move(device), options, clock);
  }
  size_t poll() { return cap->poll(out); }

  VirtualClock clock;
  TestDevice* lower = nullptr;
  std::optional<CapDevice> cap;
  std::array<IoCompletion, 16> out;
};

TEST(CapDevice, OffersMemoryToTheDeviceBelow) {
  Capped capped({.read_bytes_per_second = rate});
  std::array<std::byte, 512> memory{};
  capped.cap->offer(memory);
  EXPECT_EQ(capped.lower->offered_bytes, memory.size());
}

TEST(CapDevice, HoldsSubmissionsBackAndSaysUntilWhen) {
  Capped capped({.read_bytes_per_second = rate}, true);
  ASSERT_TRUE(capped.cap->submit(request_of(IoKind::read, 500000, 1)));
  EXPECT_EQ(capped.lower->submitted(), 0U);
  EXPECT_EQ(capped.poll(), 0U);
  EXPECT_EQ(capped.cap->next_event_time(), milliseconds(5));
  capped.clock.advance_to(milliseconds(5) - Nanos{1});
  EXPECT_EQ(capped.poll(), 0U);
  capped.clock.advance_to(milliseconds(5));
  ASSERT_EQ(capped.poll(), 1U);
  EXPECT_EQ(capped.out[0].tag, 1U);
  EXPECT_EQ(capped.out[0].in_place, capped.lower->bytes().data());
  EXPECT_EQ(capped.cap->next_event_time(), never);
}

TEST(CapDevice, ReadsAndWritesHaveTheirOwnCaps) {
  Capped capped({.read_bytes_per_second = rate});
  ASSERT_TRUE(capped.cap->submit(request_of(IoKind::read, 4096, 1)));
  ASSERT_TRUE(capped.cap->submit(request_of(IoKind::write, 4096, 2)));
  ASSERT_EQ(capped.poll(), 1U);
  EXPECT_EQ(capped.out[0].tag, 2U);
}

TEST(CapDevice, PassesThroughWhenTokensAreThere) {
  Capped capped({.read_bytes_per_second = rate, .write_bytes_per_second = rate});
  capped.clock.advance_to(milliseconds(10));
  ASSERT_TRUE(capped.cap->submit(request_of(IoKind::read, 4096, 1)));
  EXPECT_EQ(capped.lower->submitted(), 1U);
  EXPECT_EQ(capped.poll(), 1U);
}

TEST(CapDevice, KeepsOrderWithinAKind) {
  Capped capped({.read_bytes_per_second = rate});
  ASSERT_TRUE(capped.cap->submit(request_of(IoKind::read, 900000, 1)));
  // Small enough for what is there, and yet it waits for the large one.
  capped.clock.advance_to(milliseconds(1));
  ASSERT_TRUE(capped.cap->submit(request_of(IoKind::read, 4096, 2)));
  EXPECT_EQ(capped.poll(), 0U);
  capped.clock.advance_to(milliseconds(20));
  ASSERT_EQ(capped.poll(), 2U);
  EXPECT_EQ(capped.out[0].tag, 1U);
  EXPECT_EQ(capped.out[1].tag, 2U);
}

TEST(CapDevice, TakesNoMoreThanTheLowerDevice) {
  Capped capped({.read_bytes_per_second = rate}, false, 4);
  for (uint64_t tag = 0; tag < 3; ++tag) {
    ASSERT_TRUE(capped.cap->submit(request_of(IoKind::read, 1000, tag)));
  }
  ASSERT_TRUE(capped.cap->submit(request_of(IoKind::write, 1000, 3)));
  EXPECT_FALSE(capped.cap->submit(request_of(IoKind::read, 1000, 4)));
  EXPECT_EQ(capped.poll(), 1U);
  EXPECT_TRUE(capped.cap->submit(request_of(IoKind::read, 1000, 4)));
  capped.clock.advance_to(milliseconds(10));
  EXPECT_EQ(capped.poll(), 4U);
}

TEST(CapDevice, TriesAgainWhenTheLowerDeviceIsDoneDiscarding) {
  Capped capped({.write_bytes_per_second = rate}, true);
  capped.clock.advance_to(milliseconds(10));
  ASSERT_TRUE(capped.cap->discard(ByteOffset(4096), 8192));
  EXPECT_EQ(capped.lower->discarded, (std::vector<ByteRange>{{4096, 8192}}));
  capped.lower->refuse_writes();
  ASSERT_TRUE(capped.cap->submit(request_of(IoKind::write, 4096, 1)));
  EXPECT_EQ(capped.lower->submitted(), 0U);
  EXPECT_EQ(capped.cap->next_event_time(), never) << "the lower device says when";
  EXPECT_EQ(capped.poll(), 0U);
  EXPECT_EQ(capped.lower->submitted(), 1U);
  EXPECT_EQ(capped.poll(), 1U);
}

TEST(CapDevice, DeliversItsRateAndNoMore) {
  // 1 MiB requests, deep queues, stepping from event to event: 600 MB/s for half a second.
  constexpr uint64_t high_rate = 600'000'000;
  Capped capped({.read_bytes_per_second = high_rate});
  const Nanos end = milliseconds(500);
  uint64_t bytes = 0;
  while (capped.clock.now() < end) {
    while (capped.cap->submit(request_of(IoKind::read, 1 << 20, 0))) {
    }
    const size_t count = capped.poll();
    for (size_t i = 0; i < count; ++i) bytes += capped.out[i].bytes;
    if (count == 0) capped.clock.advance_to(capped.cap->next_event_time());
  }
  const double got = static_cast<double>(bytes) / std::chrono::duration<double>(capped.clock.now()).count();
  EXPECT_LE(got, 1.0001 * high_rate);
  EXPECT_GE(got, 0.99 * high_rate);
}

}  // namespace
}  // namespace kvpool
