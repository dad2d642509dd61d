#include "io/null/null_device.h"

#include <gtest/gtest.h>

#include <array>

namespace kvpool {
namespace {

TEST(NullDevice, CompletesEverythingAndBoundsItsQueue) {
  NullDevice device("null0", 1 << 20, 2);
  EXPECT_FALSE(device.limits().in_place);
  EXPECT_EQ(device.limits().size_bytes, 1U << 20);
  IoRequest request;
  request.length_bytes = 8192;
  request.tag = 1;
  EXPECT_EQ(device.next_event_time(), never);
  EXPECT_TRUE(device.submit(request));
  request.tag = 2;
  EXPECT_TRUE(device.submit(request));
  EXPECT_FALSE(device.submit(request));
  EXPECT_EQ(device.next_event_time(), Nanos{0});
  std::array<IoCompletion, 4> out;
  ASSERT_EQ(device.poll(out), 2U);
  EXPECT_EQ(out[0].tag, 1U);
  EXPECT_EQ(out[1].tag, 2U);
  EXPECT_EQ(out[1].bytes, 8192U);
  EXPECT_EQ(out[1].code, Errc::ok);
  EXPECT_EQ(out[1].in_place, nullptr);
  EXPECT_EQ(device.poll(out), 0U);
}

}  // namespace
}  // namespace kvpool
