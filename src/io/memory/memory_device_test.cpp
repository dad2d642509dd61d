#include "io/memory/memory_device.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdlib>
#include <memory>

namespace kvpool {
namespace {

struct AlignedMemory {
  static constexpr size_t size = 64 * 1024;
  std::unique_ptr<std::byte, decltype(&std::free)> bytes{
      static_cast<std::byte*>(std::aligned_alloc(4096, size)), &std::free};
  [[nodiscard]] std::span<std::byte> span() const { return {bytes.get(), size}; }
};

IoRequest request_of(uint64_t offset, uint32_t length, uint64_t tag) {
  IoRequest request;
  request.offset = ByteOffset(offset);
  request.length_bytes = length;
  request.tag = tag;
  return request;
}

TEST(MemoryDevice, CompletesInPlaceAtTheNextPoll) {
  const AlignedMemory memory;
  MemoryDevice device("memory0", memory.span());
  EXPECT_TRUE(device.limits().in_place);
  EXPECT_EQ(device.limits().size_bytes, memory.size);
  EXPECT_EQ(device.next_event_time(), never);
  std::array<IoCompletion, 4> out;
  EXPECT_EQ(device.poll(out), 0U);
  ASSERT_TRUE(device.submit(request_of(8192, 4096, 7)));
  ASSERT_TRUE(device.submit(request_of(memory.size - 4096, 4096, 8)));
  EXPECT_EQ(device.next_event_time(), Nanos{0});
  ASSERT_EQ(device.poll(out), 2U);
  EXPECT_EQ(out[0].tag, 7U);
  EXPECT_EQ(out[0].in_place, memory.span().data() + 8192);
  EXPECT_EQ(out[0].bytes, 4096U);
  EXPECT_EQ(out[0].code, Errc::ok);
  EXPECT_EQ(out[1].tag, 8U);
  EXPECT_EQ(out[1].in_place, memory.span().data() + memory.size - 4096);
  EXPECT_EQ(device.next_event_time(), never);
}

TEST(MemoryDevice, RefusesWhenItsQueueIsFull) {
  const AlignedMemory memory;
  MemoryDevice device("memory0", memory.span(), 2);
  EXPECT_TRUE(device.submit(request_of(0, 4096, 1)));
  EXPECT_TRUE(device.submit(request_of(0, 4096, 2)));
  EXPECT_FALSE(device.submit(request_of(0, 4096, 3)));
  std::array<IoCompletion, 1> out;
  ASSERT_EQ(device.poll(out), 1U);
  EXPECT_EQ(out[0].tag, 1U);
  EXPECT_TRUE(device.submit(request_of(0, 4096, 4)));
  ASSERT_EQ(device.poll(out), 1U);
  EXPECT_EQ(out[0].tag, 2U);
  ASSERT_EQ(device.poll(out), 1U);
  EXPECT_EQ(out[0].tag, 4U);
}

TEST(MemoryDeviceDeathTest, ARangeOutsideEndsTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const AlignedMemory memory;
  MemoryDevice device("memory0", memory.span());
  EXPECT_DEATH((void)device.submit(request_of(memory.size, 4096, 1)), "limits_");
}

}  // namespace
}  // namespace kvpool
