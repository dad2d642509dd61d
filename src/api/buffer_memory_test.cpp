#include <gtest/gtest.h>

#include <array>

#include "api/pool.h"

namespace kvpool {
namespace {

TEST(BufferMemory, RefusesMoreThanThereIs) {
  alignas(4096) static std::array<std::byte, 8192> memory;
  BufferMemory buffers(memory);
  EXPECT_TRUE(buffers.take(8193).empty());
  EXPECT_TRUE(buffers.take(UINT64_MAX).empty());
  EXPECT_TRUE(buffers.take(UINT64_MAX - 4094).empty());
  EXPECT_EQ(buffers.largest_free_bytes(), 8192U);
  EXPECT_EQ(buffers.take(8192).data(), memory.data());
}

}  // namespace
}  // namespace kvpool
