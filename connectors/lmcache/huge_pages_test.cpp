#include "connectors/lmcache/huge_pages.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <fstream>
#include <string>

namespace kvpool::lmcache {
namespace {

constexpr size_t huge_bytes = 2U << 20;
constexpr size_t page_bytes = 4096;
constexpr size_t memory_bytes = 8 * huge_bytes;

// Memory of small pages in the middle of a reservation, so that what lies beside it is the test's too.
class HugePagesTest : public testing::Test {
 protected:
  void SetUp() override {
    reserved_ = static_cast<std::byte*>(
        mmap(nullptr, reserved_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    ASSERT_NE(reserved_, MAP_FAILED);
    const size_t past = reinterpret_cast<uintptr_t>(reserved_) % huge_bytes;
    aligned_ = reserved_ + (2 * huge_bytes - past);
    touch(use_from(0));
    HugePages(true).use_for(memory());
    if (huge_bytes_of(part_) != memory_bytes)
      GTEST_SKIP() << "SKIP: this kernel gives no huge pages on demand";
    ASSERT_EQ(mmap(part_.data(), memory_bytes, PROT_NONE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0),
              part_.data());
  }
  void TearDown() override { munmap(reserved_, reserved_bytes); }

  std::span<std::byte> use_from(size_t offset) {
    part_ = {aligned_ + offset, memory_bytes};
    EXPECT_EQ(mmap(part_.data(), memory_bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
              part_.data());
    return part_;
  }
  static void touch(std::span<std::byte> part) {
    for (size_t at = 0; at < part.size(); at += page_bytes) part[at] = std::byte{7};
  }
  [[nodiscard]] static bool is_touched(std::span<const std::byte> part) {
    for (size_t at = 0; at < part.size(); at += page_bytes) {
      if (part[at] != std::byte{7}) return false;
    }
    return true;
  }
  [[nodiscard]] std::array<std::span<std::byte>, 1> memory() const { return {part_}; }

  // Of the mappings that lie in it.
  static size_t huge_bytes_of(std::span<const std::byte> part) {
    const auto begin = reinterpret_cast<uintptr_t>(part.data());
    std::ifstream maps("/proc/self/smaps");
    size_t kib = 0;
    bool inside = false;
    for (std::string line; std::getline(maps, line);) {
      uintptr_t first = 0;
      uintptr_t last = 0;
      size_t value = 0;
      if (std::sscanf(line.c_str(), "%lx-%lx ", &first, &last) == 2) {
        inside = first >= begin && last <= begin + part.size();
      } else if (inside && std::sscanf(line.c_str(), "AnonHugePages: %zu kB", &value) == 1) {
        kib += value;
      }
    }
    return kib << 10;
  }

  static constexpr size_t reserved_bytes = memory_bytes + 4 * huge_bytes;
  std::byte* reserved_ = nullptr;
  std::byte* aligned_ = nullptr;
  std::span<std::byte> part_;
};

TEST_F(HugePagesTest, ANeighbourThatCannotBeChanged) {
  touch(use_from(page_bytes));  // the reservation's first page cannot be touched
  EXPECT_TRUE(HugePages(true).use_for(memory()));
  EXPECT_EQ(huge_bytes_of(part_), memory_bytes - huge_bytes);
  EXPECT_TRUE(is_touched(part_));
}

TEST_F(HugePagesTest, AHoleBesideIt) {
  touch(use_from(page_bytes));
  ASSERT_EQ(munmap(aligned_, page_bytes), 0);
  EXPECT_TRUE(HugePages(true).use_for(memory()));
  EXPECT_EQ(huge_bytes_of(part_), memory_bytes - huge_bytes);
}

TEST_F(HugePagesTest, MemoryThatNobodyTouchedIsPrepared) {
  (void)use_from(page_bytes);
  touch(part_.first(3 * huge_bytes));
  HugePages::prepare(memory());
  EXPECT_EQ(huge_bytes_of(part_), memory_bytes - huge_bytes);
  EXPECT_TRUE(is_touched(part_.first(3 * huge_bytes)));
}

}  // namespace
}  // namespace kvpool::lmcache
