#include <gtest/gtest.h>
#include <poll.h>

#include <memory>
#include <thread>
#include <vector>

#include "base/checksum.h"
#include "base/median.h"
#include "base/prng.h"
#include "base/ring.h"
#include "base/units.h"
#include "base/wakeup.h"

namespace kvpool {
namespace {

TEST(Units, BytesAreDecimalOrBinaryAsWritten) {
  EXPECT_EQ(*parse_bytes("4GiB"), 4ULL << 30);
  EXPECT_EQ(*parse_bytes("600MB"), 600'000'000);
  EXPECT_EQ(*parse_bytes("1.5 MiB"), 3U << 19);
  EXPECT_EQ(*parse_bytes("4096"), 4096);
  EXPECT_EQ(*parse_bytes_per_second("600MB/s"), 600'000'000);
  EXPECT_EQ(*parse_tokens("16k"), 16384);
  EXPECT_EQ(*parse_duration("20ms"), std::chrono::milliseconds(20));
}

TEST(Units, WhatIsNotAQuantityIsNamed) {
  for (const char* text : {"", "GiB", "4Gib", "-1MB", "nan", "1e300", "4GiB ", "0x10"}) {
    const auto result = parse_bytes(text);
    ASSERT_FALSE(result) << text;
    EXPECT_NE(result.error().message.find(text), std::string::npos);
  }
  EXPECT_FALSE(parse_bytes_per_second("600MB"));
  EXPECT_FALSE(parse_bytes_per_second("600/s"));
  EXPECT_FALSE(parse_duration("20"));
}

TEST(Median, IsBetweenTheTwoInTheMiddle) {
  EXPECT_EQ(median({}), 0);
  EXPECT_EQ(median({3, 1, 2}), 2);
  EXPECT_EQ(median({4, 1, 2, 3}), 2.5);
}

TEST(Checksum, DependsOnBytesKeyAndSegment) {
  const std::vector<std::byte> bytes(4096, std::byte{7});
  const BlockKey key{1, 2};
  const uint64_t sum = checksum(bytes, checksum_seed(key, 3));
  EXPECT_EQ(sum, checksum(bytes, checksum_seed(key, 3)));
  EXPECT_NE(sum, checksum(bytes, checksum_seed(key, 4)));
  EXPECT_NE(sum, checksum(bytes, checksum_seed({2, 1}, 3)));
  auto flipped = bytes;
  flipped[4095] ^= std::byte{1};
  EXPECT_NE(sum, checksum(flipped, checksum_seed(key, 3)));
}

TEST(SpscRing, IsBoundedAndKeepsOrder) {
  SpscRing<uint32_t, 4> ring;
  for (uint32_t i = 0; i < 4; ++i) EXPECT_TRUE(ring.push(i));
  EXPECT_FALSE(ring.push(4));
  uint32_t out = 99;
  for (uint32_t i = 0; i < 4; ++i) {
    ASSERT_TRUE(ring.pop(out));
    EXPECT_EQ(out, i);
  }
  EXPECT_FALSE(ring.pop(out));
}

TEST(SpscRing, LosesNothingBetweenThreads) {
  constexpr uint32_t count = 200'000;
  auto ring = std::make_unique<SpscRing<uint32_t, 64>>();
  std::thread producer([&] {
    for (uint32_t i = 0; i < count; ++i) {
      while (!ring->push(i)) std::this_thread::yield();
    }
  });
  for (uint32_t expected = 0; expected < count;) {
    uint32_t out = 0;
    if (!ring->pop(out)) {
      std::this_thread::yield();
      continue;
    }
    ASSERT_EQ(out, expected++);
  }
  producer.join();
}

TEST(Wakeup, NoWorkIsSleptThrough) {
  constexpr uint32_t count = 20'000;
  auto ring = std::make_unique<SpscRing<uint32_t, 64>>();
  Wakeup wakeup;
  std::thread producer([&] {
    for (uint32_t i = 0; i < count; ++i) {
      while (!ring->push(i)) std::this_thread::yield();
      wakeup.notify();
    }
  });
  for (uint32_t received = 0; received < count;) {
    uint32_t out = 0;
    if (ring->pop(out)) {
      ++received;
      continue;
    }
    wakeup.prepare();
    if (ring->empty()) {
      pollfd descriptor{.fd = wakeup.fd(), .events = POLLIN, .revents = 0};
      ASSERT_EQ(poll(&descriptor, 1, 10'000), 1) << "a notification was lost after " << received;
    }
    wakeup.done();
  }
  producer.join();
}

TEST(Prng, StaysInItsRange) {
  Prng prng(1);
  for (int i = 0; i < 1000; ++i) {
    EXPECT_LT(prng.below(7), 7);
    const uint64_t value = prng.between(3, 5);
    EXPECT_TRUE(value >= 3 && value <= 5);
    const double unit = prng.unit();
    EXPECT_TRUE(unit >= 0 && unit < 1);
  }
}

}  // namespace
}  // namespace kvpool
