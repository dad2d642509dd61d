// PageMover with a copier that sums what it loads, as a GPU does.

#include <string>
#include <thread>

#include "connectors/pages/late_fixture.h"

namespace kvpool::pages {
namespace {

class MoverChecks : public LateMoverTest {
 protected:
  void start_verified(const std::vector<std::string>& kinds, bool windows = false, uint64_t seed = 1) {
    std::string text = toml(kinds);
    const std::string section = "[pool]\n";
    text.insert(text.find(section) + section.size(), "verify = \"always\"\n");
    start_late(text, windows, seed);
  }
  uint32_t load(kvpool_pin pin, const std::vector<int32_t>& numbers, std::vector<LoadPart> parts = {}) {
    engine_->clear();
    return ended(begin_load(pin, numbers, 0, 0, std::move(parts)), EventKind::loaded);
  }
  [[nodiscard]] uint64_t checked() {
    const std::lock_guard lock(late_->mutex);
    return late_->checked;
  }
  [[nodiscard]] uint64_t wrong() {
    const std::lock_guard lock(late_->mutex);
    return late_->wrong;
  }
  void spoil_parts(uint64_t parts) {
    const std::lock_guard lock(late_->mutex);
    late_->parts_to_spoil = parts;
  }
  // A byte in the pool's memory, of the segments that were loaded.
  void spoil_memory(size_t segment) {
    const std::lock_guard lock(late_->mutex);
    const auto& seen = late_->segments[Late::to_pages];
    ASSERT_GT(seen.size(), segment);
    *const_cast<std::byte*>(*std::next(seen.begin(), static_cast<int64_t>(segment))) ^= std::byte{1};
  }
};

TEST_F(MoverChecks, AreMadeByTheCopierWhereAllIsToBeVerified) {
  start_verified({"memory"});
  EXPECT_EQ(store(1, 12), 12U);
  const kvpool_pin held = pin(1, 12);
  const auto numbers = pages_for(12, 7, true);
  EXPECT_EQ(load(held, numbers), 12U);
  EXPECT_EQ(complete_blocks(numbers, 1), 12U);
  EXPECT_EQ(checked(), 12U * layers);
  EXPECT_EQ(wrong(), 0U);
  // What is not wanted of a block is not copied: its sum is the pool's.
  auto some = numbers;
  some[1] = -1;
  EXPECT_EQ(load(held, some), 12U);
  EXPECT_EQ(complete_blocks(some, 1), 12U);
  EXPECT_LT(checked(), 2 * 12U * layers);
}

TEST_F(MoverChecks, AreNotAskedForElsewhere) {
  start_late(toml({"memory"}));
  EXPECT_EQ(store(1, 12), 12U);
  EXPECT_EQ(load(pin(1, 12), pages_for(12, 7, true)), 12U);
  EXPECT_EQ(checked(), 0U);
}

TEST_F(MoverChecks, KeepALoadFromBeingOrdered) {
  start_verified({"memory"});
  EXPECT_EQ(store(1, 12), 12U);
  late_->hold(Late::to_pages, true);
  {
    const std::lock_guard lock(late_->mutex);
    late_->batches_max = 1000;
  }
  const auto numbers = pages_for(12, 7, true);
  const uint64_t id = begin_load(pin(1, 12), numbers, 0, 0, in_parts());
  ASSERT_TRUE(late_->wait_waiting(Late::to_pages, 1));
  EXPECT_FALSE(wait_ordered(id, moment_us));
  late_->hold(Late::to_pages, false);
  EXPECT_EQ(ended(id, EventKind::loaded), 12U);
  EXPECT_EQ(complete_blocks(numbers, 1), 12U);
  for (const Event& event : events_) EXPECT_NE(event.kind, EventKind::ordered) << "nobody needs to wait";
}

// As a link would. The pool finds nothing wrong with what it has.
TEST_F(MoverChecks, WhatComesWrongIsLoadedAgain) {
  for (const bool windows : {false, true}) {
    for (const auto& parts : {std::vector<LoadPart>{}, in_parts()}) {
      SCOPED_TRACE(std::to_string(windows) + ", " + std::to_string(parts.size()) + " parts");
      start_verified({"memory", "file"}, windows);
      EXPECT_EQ(store(1, 9), 9U);
      const kvpool_pin held = pin(1, 9);
      const auto numbers = pages_for(9, 7, true);
      spoil_parts(3);
      EXPECT_EQ(load(held, numbers, parts), 9U);
      EXPECT_GE(wrong(), 1U);
      EXPECT_EQ(mover_->stats().wrong_copies, wrong());
      EXPECT_EQ(complete_blocks(numbers, 1), 9U);
      EXPECT_TRUE(engine_->gaps_are_untouched());
      EXPECT_EQ(stats().checksum_errors, 0U);
      EXPECT_EQ(mover_->stats().failed_loads, 0U);
      EXPECT_EQ(mover_->stats().loaded_blocks, 9U);
      mover_.reset();
      client_.reset();
      close();
      std::filesystem::remove(file_path());
    }
  }
}

// The pool has the right bytes, and they never arrive.
TEST_F(MoverChecks, AWayThatStaysBadEndsTheLoad) {
  start_verified({"memory", "file"});
  EXPECT_EQ(store(1, 12), 12U);
  const kvpool_pin held = pin(1, 12);
  const auto numbers = pages_for(12, 7, true);
  for (const auto& parts : {std::vector<LoadPart>{}, in_parts()}) {
    spoil_parts(UINT64_MAX);
    const uint32_t loaded = load(held, numbers, parts);
    EXPECT_LT(loaded, 12U);
    EXPECT_GE(complete_blocks(numbers, 1), loaded);
    for (const Event& event : events_) EXPECT_NE(event.kind, EventKind::ordered);
  }
  EXPECT_EQ(mover_->stats().failed_loads, 2U);
  EXPECT_EQ(stats().checksum_errors, 0U);
  spoil_parts(0);
  EXPECT_EQ(load(held, numbers), 12U);
}

TEST_F(MoverChecks, WhatIsWrongInMemoryIsAMiss) {
  for (const size_t segment : {size_t{0}, size_t{20}, size_t{71}}) {
    for (const auto& parts : {std::vector<LoadPart>{}, in_parts()}) {
      SCOPED_TRACE("segment " + std::to_string(segment));
      start_verified({"memory"});
      EXPECT_EQ(store(1, 12), 12U);
      const kvpool_pin held = pin(1, 12);
      const auto numbers = pages_for(12, 6, true);
      EXPECT_EQ(load(held, numbers), 12U);
      ASSERT_NO_FATAL_FAILURE(spoil_memory(segment));
      const uint32_t loaded = load(held, numbers, parts);
      EXPECT_LT(loaded, 12U);
      EXPECT_GE(complete_blocks(numbers, 1), loaded);
      EXPECT_EQ(wrong(), 1U);
      EXPECT_EQ(stats().checksum_errors, 1U);
      EXPECT_EQ(mover_->stats().failed_loads, 1U);
      EXPECT_LT(stats().ready_blocks, 12U) << "the pool has given it up";
      mover_.reset();
      client_.reset();
      close();
    }
  }
}

// Whenever a load ends, it hangs on nothing, and what it says it has brought is there.
TEST_F(MoverChecks, ThatFailInLoadsWhichEndEarlyHoldNothing) {
  start_verified({"memory", "file"});
  EXPECT_EQ(store(1, 12), 12U);
  const kvpool_pin held = pin(1, 12);
  const auto numbers = pages_for(12, 7, true);
  Prng random(5);
  int whole = 0;
  {
    const std::lock_guard lock(late_->mutex);
    late_->parts_max = 5;
  }
  for (int round = 0; round < 200; ++round) {
    SCOPED_TRACE(round);
    spoil_parts(random.below(4));
    engine_->clear();
    const bool is_late = random.chance(0.3);
    const uint64_t id = begin_load(held, numbers, is_late ? 1 + random.below(300) : 0, 0,
                                   random.chance(0.5) ? in_parts() : std::vector<LoadPart>{});
    const bool is_cancelled = random.chance(0.3);
    if (is_cancelled) {
      std::this_thread::sleep_for(std::chrono::microseconds(random.below(300)));
      mover_->cancel(id);
    }
    const uint32_t loaded = ended(id, EventKind::loaded);
    ASSERT_GE(complete_blocks(numbers, 1), loaded);
    if (loaded == 12) ++whole;
  }
  EXPECT_GT(whole, 50);
  EXPECT_GT(wrong(), 0U);
  EXPECT_EQ(stats().checksum_errors, 0U);
  EXPECT_EQ(mover_->jobs_under_way(), 0U);
}

}  // namespace
}  // namespace kvpool::pages
