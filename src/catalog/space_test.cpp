#include "catalog/space.h"

#include <gtest/gtest.h>

#include <initializer_list>

namespace kvpool {
namespace {

constexpr uint64_t KiB = 1024;
constexpr uint64_t MiB = 1024 * KiB;
constexpr uint64_t GiB = 1024 * MiB;

// The part of a device that slots of the one class in `which` can fill.
double usable(uint64_t size_bytes, std::initializer_list<uint64_t> classes, uint16_t which) {
  Space space;
  EXPECT_TRUE(space.open(size_bytes, 4096).has_value());
  for (const uint64_t bytes : classes) EXPECT_TRUE(space.add_class(bytes).has_value());
  const SizeClass c(which);
  uint64_t taken = 0;
  while (space.free_slots(c) > 0 || (space.empty_slabs() > 0 && space.slots_per_slab(c) > 0)) {
    taken += space.take(c, 8).count;
  }
  space.check();
  return static_cast<double>(taken * space.slot_bytes(c)) / static_cast<double>(size_bytes);
}

TEST(Space, LittleIsLostAtTheEndsOfSlabs) {
  EXPECT_GE(usable(64 * MiB, {1 * MiB}, 0), 0.95);
  EXPECT_GE(usable(64 * MiB - 4096, {1 * MiB}, 0), 0.95);
  for (const uint64_t size : {1 * GiB, 1 * GiB - 4096, 4 * GiB, 100 * GiB}) {
    for (uint16_t c = 0; c < 3; ++c) {
      EXPECT_GE(usable(size, {1 * MiB, 768 * KiB, 256 * KiB}, c), 0.95) << size << " " << c;
    }
  }
  EXPECT_GE(usable(2 * MiB, {16 * KiB}, 0), 0.95);
  EXPECT_GE(usable(2 * MiB, {4 * KiB, 64 * KiB}, 0), 0.95);
  EXPECT_GE(usable(3 * MiB + 777, {64 * KiB}, 0), 0.95);
}

TEST(Space, SlotsAreConsecutiveWhereTheyCanBe) {
  Space space;
  ASSERT_TRUE(space.open(64 * MiB, 4096).has_value());
  ASSERT_TRUE(space.add_class(1 * MiB).has_value());
  const SizeClass c(0);
  const Slots a = space.take(c, 3);
  const Slots b = space.take(c, 2);
  EXPECT_EQ(a.count, 3);
  EXPECT_EQ(b.count, 2);
  EXPECT_EQ(b.granule, a.granule + 3 * space.slot(c));
  space.give(a);
  const Slots one = space.take(c, 1);
  EXPECT_EQ(one.granule, a.granule) << "the hole is filled first";
  EXPECT_EQ(space.used_bytes(), 3 * MiB);
  space.check();
}

TEST(Space, AnEmptySlabServesAnotherClass) {
  Space space;
  ASSERT_TRUE(space.open(64 * MiB, 4096).has_value());
  ASSERT_TRUE(space.add_class(1 * MiB).has_value());
  ASSERT_TRUE(space.add_class(64 * KiB).has_value());
  std::vector<Slots> taken;
  while (space.free_slots(SizeClass(0)) > 0 || space.empty_slabs() > 0) {
    taken.push_back(space.take(SizeClass(0), 4));
  }
  EXPECT_EQ(space.free_slots(SizeClass(1)), 0);
  for (const Slots& slots : taken) space.give(slots);
  EXPECT_EQ(space.used_bytes(), 0);
  EXPECT_EQ(space.empty_slabs(), space.slabs());
  EXPECT_EQ(space.changed_slabs(), 0);
  (void)space.take(SizeClass(1), 1);
  EXPECT_EQ(space.changed_slabs(), 1);
  space.check();
}

TEST(Space, AClassThatIsAddedLaterKeepsTheSlabs) {
  Space space;
  ASSERT_TRUE(space.open(64 * MiB, 4096).has_value());
  ASSERT_TRUE(space.add_class(4 * KiB).has_value());
  (void)space.take(SizeClass(0), 1);
  const uint64_t before = space.slab_bytes();
  ASSERT_TRUE(space.add_class(1 * MiB).has_value());
  ASSERT_TRUE(space.add_class(32 * MiB).has_value());
  EXPECT_EQ(space.slab_bytes(), before);
  EXPECT_GT(space.slots_per_slab(SizeClass(1)), 0);
  EXPECT_EQ(space.slots_per_slab(SizeClass(2)), 0);
}

TEST(Space, KnowsWhatWasFreedAndIsNotInUseAgain) {
  Space space;
  ASSERT_TRUE(space.open(64 * MiB, 4096, /*keeps_freed=*/true).has_value());
  ASSERT_TRUE(space.add_class(1 * MiB).has_value());
  const SizeClass c(0);
  const Slots a = space.take(c, 2);
  const Slots b = space.take(c, 2);
  EXPECT_TRUE(space.freed().empty());
  space.give(b);
  space.give(a);
  ASSERT_EQ(space.freed().ranges().size(), 1U);
  EXPECT_EQ(space.freed().ranges()[0], (ByteRange{space.offset(a.granule).value, 4 * MiB}));
  EXPECT_EQ(space.take(c, 1).granule, a.granule);
  EXPECT_EQ(space.freed().ranges()[0], (ByteRange{space.offset(a.granule).value + MiB, 3 * MiB}));
}

TEST(Space, RefusesWhatCannotBe) {
  Space space;
  EXPECT_EQ(space.open(1 * MiB, 3).error().code, Errc::invalid_argument);
  EXPECT_EQ(space.open(0, 4096).error().code, Errc::invalid_argument);
}

}  // namespace
}  // namespace kvpool
