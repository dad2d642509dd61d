// PageMover where somebody waits for pages that stores read, with a copier that completes late.

#include <string>
#include <thread>

#include "connectors/pages/late_fixture.h"

namespace kvpool::pages {
namespace {

class MoverWaits : public LateMoverTest {
 protected:
  static std::vector<uint64_t> range(uint64_t first, uint64_t count) {
    std::vector<uint64_t> made;
    for (uint64_t i = 0; i < count; ++i) made.push_back(first + i);
    return made;
  }
  // Blocks with these keys, all of the same page.
  StoreJob one_page_job(uint64_t chain, const std::vector<uint64_t>& keys, int32_t page, uint64_t after = 0) {
    StoreJob job{.id = ++ids_, .chain = chain, .keys = {}, .pages = {}, .after = after};
    for (const uint64_t number : keys) job.keys.push_back(key(number));
    job.pages.assign(keys.size() * full_pages, page);
    return job;
  }
  // An engine's, which takes longer than anybody waits for a device; the event is behind it.
  [[nodiscard]] std::jthread end_step(uint64_t event) {
    return std::jthread([this, event] {
      std::this_thread::sleep_for(std::chrono::milliseconds(400));
      late_->come(event);
    });
  }
};

// Whoever waits for pages has a store cut short after a while, but gets them when the copies have ended.
TEST_F(MoverWaits, PagesAreUnreadWhenTheirCopiesHaveEnded) {
  start_late(toml({"memory"}));
  late_->hold(Late::to_segments, true);
  const uint64_t id = begin_store(1, 12);
  const std::vector<int32_t> page = {3};
  EXPECT_FALSE(mover_->wait_unread(page, PageMover::patience_us + 1'000'000));
  late_->hold(Late::to_segments, false);
  EXPECT_TRUE(mover_->wait_unread(page, patience_us));
  const uint32_t begun = ended(id, EventKind::stored);
  EXPECT_GT(begun, 0U);
  EXPECT_LT(begun, 12U);
  engine_->clear();
  const auto numbers = pages_for(begun, 7, true);
  EXPECT_EQ(ended(begin_load(pin(1, begun), numbers), EventKind::loaded), begun);
  EXPECT_EQ(complete_blocks(numbers, 1), begun);
}

// Another store, of another chain, reads one of the pages too, and is done before.
TEST_F(MoverWaits, APageMayBeReusedWhenNoStoreReadsIt) {
  start_late(toml({"memory"}));
  use_late(4 << 20);
  const std::vector<int32_t> last = {pages_for(8, 3, false).back()};
  const std::vector<int32_t> others = {-1, 1 << 20, static_cast<int32_t>((3 + 32 * 5) % pages)};
  late_->hold(Late::to_segments, true);
  ASSERT_EQ(mover_->store(one_page_job(9, {900}, last[0])), KVPOOL_OK);
  const uint64_t other = ids_;
  const uint64_t id = begin_store(1, 8, false, 5);
  late_->hold(Late::to_segments, false);
  EXPECT_EQ(ended(other, EventKind::stored), 1U);
  EXPECT_FALSE(mover_->wait_unread(last, 0));
  EXPECT_TRUE(mover_->wait_unread(others, 0)) << "these are no pages of the store";
  late_->come(5);
  EXPECT_TRUE(mover_->wait_unread(last, patience_us));
  engine_->clear();
  EXPECT_EQ(ended(id, EventKind::stored), 8U);
  const auto target = pages_for(8, 7, true);
  EXPECT_EQ(ended(begin_load(pin(1, 8), target), EventKind::loaded), 8U);
  EXPECT_EQ(complete_blocks(target, 1), 8U);
}

TEST_F(MoverWaits, AStoreIsNotCutShortForItsEvent) {
  start_late(toml({"memory"}));
  const uint64_t id = begin_store(1, 12, false, 5);
  const std::jthread step = end_step(5);
  EXPECT_TRUE(mover_->wait_unread(std::vector<int32_t>{3}, patience_us));
  EXPECT_EQ(ended(id, EventKind::stored), 12U);
}

TEST_F(MoverWaits, AStoreIsNotCutShortForLoadsThatWaitForTheEngine) {
  start_late(toml({"memory"}));
  EXPECT_EQ(store(1, 30), 30U);
  const uint64_t load = begin_load(pin(1, 30), pages_for(30, 7, true), 0, 7);
  ASSERT_TRUE(late_->wait_waiting(Late::to_pages, 2));
  const uint64_t id = begin_store(101, 12);
  const std::jthread step = end_step(7);
  EXPECT_TRUE(mover_->wait_unread(std::vector<int32_t>{3}, patience_us));
  EXPECT_EQ(ended(id, EventKind::stored), 12U);
  EXPECT_EQ(ended(load, EventKind::loaded), 30U);
}

// Another store has memory, and waits for its event.
TEST_F(MoverWaits, AnothersEventIsNotWaitedFor) {
  start_late(toml({"file"}, "", "limit_write = \"1MB/s\""));
  const uint64_t id = begin_store(1, 40);
  std::this_thread::sleep_for(std::chrono::microseconds(moment_us));
  ASSERT_EQ(mover_->store(one_page_job(3, {900}, 60, 5)), KVPOOL_OK);
  ASSERT_TRUE(late_->wait_waiting(Late::to_segments, 1));
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_TRUE(mover_->wait_unread(std::vector<int32_t>{3}, patience_us));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(1));
  late_->come(5);
  EXPECT_LT(ended(id, EventKind::stored), 40U);
  EXPECT_EQ(ended(ids_, EventKind::stored), 1U) << "nobody wanted its pages";
}

// As many as memory has room for, and not two units at a time.
TEST_F(MoverWaits, ThoseThatAreWaitedForHurry) {
  start_late(toml({"file"}, "", "limit_write = \"1MB/s\""));
  use_late(10 << 20);
  ASSERT_EQ(mover_->store(one_page_job(2, range(500, 100), 1)), KVPOOL_OK);
  const uint64_t other = ids_;
  std::this_thread::sleep_for(std::chrono::microseconds(moment_us));
  StoreJob first = one_page_job(3, range(900, 17), 30);
  StoreJob second = one_page_job(3, range(917, 2), 60);
  second.has_parent = true;
  second.parent = key(916);
  ASSERT_EQ(mover_->store(first), KVPOOL_OK);
  ASSERT_EQ(mover_->store(second), KVPOOL_OK);
  EXPECT_TRUE(mover_->wait_unread(std::vector<int32_t>{60}, patience_us));
  mover_->cancel(other);
  EXPECT_EQ(ended(first.id, EventKind::stored), 17U) << "what it follows";
  EXPECT_EQ(ended(second.id, EventKind::stored), 2U);
}

// The thread is busy with what it knew before somebody waited, and nobody may wait for devices any more.
TEST_F(MoverWaits, ThoseThatAreWaitedForHurryBeforeTheyAreCutShort) {
  start_late(toml({"file"}, "", "limit_write = \"1MB/s\""));
  use_late(10 << 20);
  ASSERT_EQ(mover_->store(one_page_job(2, range(500, 100), 1)), KVPOOL_OK);
  EXPECT_TRUE(mover_->wait_unread(std::vector<int32_t>{1}, patience_us));
  EXPECT_TRUE(mover_->cancel_stores(patience_us));
  const StoreJob job = one_page_job(3, range(900, 24), 60);
  ASSERT_EQ(mover_->store(job), KVPOOL_OK);
  std::this_thread::sleep_for(std::chrono::microseconds(moment_us));
  late_->poll_us = 4 * moment_us;
  std::this_thread::sleep_for(std::chrono::microseconds(5 * moment_us));
  EXPECT_TRUE(mover_->wait_unread(std::vector<int32_t>{60}, patience_us));
  late_->poll_us = 0;
  EXPECT_EQ(ended(job.id, EventKind::stored), 24U);
}

// It waits for the one before it in its chain, though a device has another store's memory.
TEST_F(MoverWaits, AStoreIsNotCutShortForTheEventOfOneBeforeIt) {
  start_late(toml({"file"}, "", "limit_write = \"1MB/s\""));
  use_late(10 << 20);
  ASSERT_EQ(mover_->store(one_page_job(2, range(500, 8), 1)), KVPOOL_OK);
  ASSERT_EQ(mover_->store(one_page_job(3, range(900, 60), 30, 5)), KVPOOL_OK);
  ASSERT_EQ(mover_->store(one_page_job(3, range(960, 4), 60, 5)), KVPOOL_OK);
  const std::jthread step = end_step(5);
  EXPECT_TRUE(mover_->wait_unread(std::vector<int32_t>{60}, patience_us));
  const std::lock_guard lock(late_->mutex);
  EXPECT_TRUE(late_->events.contains(5));
}

TEST_F(MoverWaits, OnlyStoresThatReadTheWantedPagesAreCutShort) {
  start_late(toml({"file"}, "", "limit_write = \"5MB/s\""));
  const uint64_t id = begin_store(1, 12);
  ASSERT_EQ(mover_->store(one_page_job(2, range(500, 12), 1)), KVPOOL_OK);
  std::this_thread::sleep_for(std::chrono::microseconds(moment_us));
  EXPECT_TRUE(mover_->wait_unread(std::vector<int32_t>{3}, patience_us));
  EXPECT_LT(ended(id, EventKind::stored), 12U);
  EXPECT_EQ(ended(ids_, EventKind::stored), 12U);
}

}  // namespace
}  // namespace kvpool::pages
