#include "engine/staging.h"

#include <gtest/gtest.h>

#include <map>

#include "base/prng.h"

namespace kvpool {
namespace {

constexpr uint32_t unit = Staging::unit_bytes_min;

class StagingTest : public testing::Test {
 protected:
  static constexpr uint32_t units = 16;
  alignas(4 * unit) static inline std::array<std::byte, units * unit> memory_{};
  Staging staging_{memory_};
};

TEST_F(StagingTest, HandsOutAllOfItAndNotMore) {
  for (uint32_t i = 0; i < units; ++i) EXPECT_EQ(staging_.take(1), memory_.data() + i * unit);
  EXPECT_EQ(staging_.take(1), nullptr);
  EXPECT_EQ(staging_.used_bytes(), staging_.size_bytes());
  EXPECT_EQ(staging_.take((units + 1) * unit), nullptr);
}

TEST_F(StagingTest, AFragmentedOneRefusesALongRunUntilNeighboursComeBack) {
  for (uint32_t i = 0; i < units; ++i) ASSERT_NE(staging_.take(unit), nullptr);
  for (uint32_t i = 1; i < units; i += 2) staging_.give_back(memory_.data() + i * unit, unit);
  EXPECT_EQ(staging_.take(unit + 1), nullptr);
  staging_.give_back(memory_.data() + 6 * unit, unit);
  EXPECT_EQ(staging_.take(3 * unit), memory_.data() + 5 * unit);
}

TEST_F(StagingTest, HandsOutWhatADeviceOfLargerSectorsCanUse) {
  // Memory that starts and ends within a sector.
  Staging staging(std::span<std::byte>(memory_).subspan(unit, 14 * unit), 4 * unit);
  for (int i = 0; i < 2; ++i) {
    const std::byte* address = staging.take(unit);
    ASSERT_NE(address, nullptr);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(address) % (4 * unit), 0U);
    EXPECT_GE(address, memory_.data() + unit);
    EXPECT_LE(address + 4 * unit, memory_.data() + 15 * unit);
  }
  EXPECT_EQ(staging.take(unit), nullptr);
}

// No run reaches over the end: the sweep goes on at the beginning.
TEST_F(StagingTest, WrapsToTheBeginning) {
  std::byte* const first = staging_.take(10 * unit);
  std::byte* const second = staging_.take(4 * unit);
  ASSERT_EQ(second, memory_.data() + 10 * unit);
  staging_.give_back(first, 10 * unit);
  EXPECT_EQ(staging_.take(3 * unit), memory_.data());
  EXPECT_EQ(staging_.take(7 * unit), memory_.data() + 3 * unit);
  EXPECT_EQ(staging_.take(2 * unit), memory_.data() + 14 * unit);
  EXPECT_EQ(staging_.take(1), nullptr);
}

TEST_F(StagingTest, RunsNeverOverlapAndEveryFreeRunIsFound) {
  Prng prng(7);
  std::map<uint32_t, uint32_t> taken;  // first unit, units
  for (int i = 0; i < 20000; ++i) {
    if (!taken.empty() && prng.chance(0.5)) {
      auto it = std::next(taken.begin(), static_cast<int>(prng.below(taken.size())));
      staging_.give_back(memory_.data() + it->first * unit, it->second * unit);
      taken.erase(it);
      continue;
    }
    const auto wanted = static_cast<uint32_t>(prng.between(1, 6));
    std::array<bool, units> used{};
    for (const auto& [first, count] : taken) std::fill_n(used.begin() + first, count, true);
    const bool fits = std::search_n(used.begin(), used.end(), wanted, false) != used.end();
    const std::byte* run = staging_.take(wanted * unit);
    ASSERT_EQ(run != nullptr, fits);
    if (run == nullptr) continue;
    const auto first = static_cast<uint32_t>((run - memory_.data()) / unit);
    for (uint32_t u = first; u < first + wanted; ++u) ASSERT_FALSE(used[u]);
    taken[first] = wanted;
  }
}

}  // namespace
}  // namespace kvpool
