#include "io/discards.h"

#include <gtest/gtest.h>

#include <vector>

namespace kvpool {
namespace {

std::vector<ByteRange> send(Discards& discards) {
  const auto sent = discards.send();
  return {sent.begin(), sent.end()};
}

TEST(Discards, GoOneCommandAtATime) {
  Discards discards({.ranges_max = 4});
  EXPECT_FALSE(discards.can_send());
  EXPECT_TRUE(discards.add(ByteOffset(8192), 4096));
  EXPECT_TRUE(discards.add(ByteOffset(4096), 4096));
  EXPECT_TRUE(discards.add(ByteOffset(1 << 20), 4096));
  EXPECT_EQ(send(discards), (std::vector<ByteRange>{{1 << 20, 4096}, {4096, 8192}}));
  EXPECT_TRUE(discards.add(ByteOffset(0), 4096));
  EXPECT_FALSE(discards.can_send());
  discards.finish();
  EXPECT_EQ(send(discards), (std::vector<ByteRange>{{0, 4096}}));
}

TEST(Discards, StayWithinTheLimitsOfACommand) {
  Discards discards({.ranges_max = 2, .range_bytes_max = 8192, .command_bytes_max = 12288});
  EXPECT_TRUE(discards.add(ByteOffset(0), 20480));
  EXPECT_EQ(send(discards), (std::vector<ByteRange>{{12288, 8192}, {8192, 4096}}));
  discards.finish();
  EXPECT_EQ(send(discards), (std::vector<ByteRange>{{0, 8192}}));
  discards.finish();
  EXPECT_TRUE(discards.add(ByteOffset(0), 4096));
  EXPECT_TRUE(discards.add(ByteOffset(8192), 4096));
  EXPECT_FALSE(discards.add(ByteOffset(16384), 4096));
}

TEST(Discards, SpareWhatIsWrittenWhileTheyWait) {
  Discards discards({});
  EXPECT_TRUE(discards.add(ByteOffset(0), 16384));
  EXPECT_TRUE(discards.admit_write(ByteOffset(4096), 4096));
  EXPECT_EQ(send(discards), (std::vector<ByteRange>{{8192, 8192}, {0, 4096}}));
}

TEST(Discards, HoldAWriteBackWhileTheyAreUnderWay) {
  Discards discards({});
  EXPECT_TRUE(discards.add(ByteOffset(0), 8192));
  (void)discards.send();
  EXPECT_FALSE(discards.admit_write(ByteOffset(4096), 8192));
  EXPECT_TRUE(discards.admit_write(ByteOffset(8192), 4096));
  discards.finish();
  EXPECT_TRUE(discards.admit_write(ByteOffset(4096), 8192));
}

}  // namespace
}  // namespace kvpool
