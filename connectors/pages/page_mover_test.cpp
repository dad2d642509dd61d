#include "connectors/pages/page_mover.h"

#include <fcntl.h>

#include <atomic>
#include <thread>

#include "connectors/pages/mover_fixture.h"

namespace kvpool::pages {
namespace {

TEST_F(PageMoverTest, BringsBackWhatItStored) {
  start(toml({"memory", "file"}));
  EXPECT_EQ(store(1, 10), 10U);
  EXPECT_EQ(store(11, 3, true), 3U);
  const auto numbers = pages_for(13, 7, true);
  const uint64_t id = begin_load(pin(1, 13), numbers);
  EXPECT_EQ(ended(id, EventKind::loaded), 13U);
  EXPECT_EQ(complete_blocks(numbers, 1), 13U);
  EXPECT_TRUE(engine_->gaps_are_untouched());
  EXPECT_EQ(mover_->stats().loaded_blocks, 13U);
  EXPECT_EQ(mover_->stats().loaded_bytes, 13U * layers * full_pages * 6144);
  EXPECT_EQ(mover_->jobs_under_way(), 0U);
  EXPECT_EQ(stats().bounced_bytes, 0U);
}

TEST_F(PageMoverTest, BringsWindowsOfTheLastBlockAlone) {
  start(toml({"memory", "file"}), true);
  EXPECT_EQ(store(1, 9), 9U);
  const auto numbers = pages_for(9, 1, true);
  EXPECT_EQ(ended(begin_load(pin(1, 9), numbers), EventKind::loaded), 9U);
  EXPECT_EQ(complete_blocks(numbers, 1), 9U);
  EXPECT_TRUE(engine_->gaps_are_untouched());
  constexpr uint32_t with_window = layers / 2;
  EXPECT_EQ(mover_->stats().loaded_bytes,
            ((layers - with_window) * 9U * full_pages + with_window * window_pages) * 6144U);
}

TEST_F(PageMoverTest, CutsLongJobsToItsStagingMemory) {
  start(toml({"file"}));
  const uint64_t one_block = layers * full_pages * 8192;
  mover_ = nullptr;
  mover_ = open_mover(one_block + (1 << 16));
  EXPECT_EQ(store(1, 12), 12U);
  const auto numbers = pages_for(12, 9, true);
  EXPECT_EQ(ended(begin_load(pin(1, 12), numbers), EventKind::loaded), 12U);
  EXPECT_EQ(complete_blocks(numbers, 1), 12U);
}

TEST_F(PageMoverTest, CutsJobsToWhatThePoolTakesAtOnce) {
  start(toml({"memory", "file"}) + "[limits]\nsegments_per_request = 12\n");
  uint32_t tries = 0;
  while (store(1, 12) < 12 && tries < 3) ++tries;  // a cache may forget; it learns
  EXPECT_EQ(store(1, 12), 12U);
  mover_ = nullptr;
  mover_ = open_mover(2 << 20);
  const auto numbers = pages_for(12, 9, true);
  EXPECT_EQ(ended(begin_load(pin(1, 12), numbers), EventKind::loaded), 12U);
  EXPECT_EQ(complete_blocks(numbers, 1), 12U);
  EXPECT_EQ(mover_->stats().failed_loads, 0U);
}

TEST_F(PageMoverTest, StoresOfAChainFollowEachOther) {
  start(toml({"file"}));
  std::vector<uint64_t> ids;
  for (uint64_t first = 1; first <= 41; first += 2) {
    const auto numbers = pages_for(2, 3, false);
    if (!ids.empty()) {
      EXPECT_TRUE(mover_->wait_gathered(ids.back(), patience_us));
    }
    fill(numbers, first);
    StoreJob job{.id = ++ids_, .chain = 5, .keys = {key(first), key(first + 1)}, .pages = numbers};
    job.has_parent = first > 1;
    job.parent = key(first - 1);
    EXPECT_EQ(mover_->store(job), KVPOOL_OK);
    ids.push_back(job.id);
  }
  for (const uint64_t id : ids) EXPECT_EQ(ended(id, EventKind::stored), 2U);
  const auto numbers = pages_for(12, 2, true);
  EXPECT_EQ(ended(begin_load(pin(1, 12), numbers), EventKind::loaded), 12U);
  EXPECT_EQ(complete_blocks(numbers, 1), 12U);
}

TEST_F(PageMoverTest, WhoWaitsForPagesDoesNotWaitForASlowDrive) {
  start(toml({"file"}, "", "limit_write = \"1MB/s\""));
  mover_ = nullptr;
  mover_ = open_mover(layers * full_pages * 8192 + (1 << 16));
  const auto begin = std::chrono::steady_clock::now();
  StoreJob job{.id = 1, .keys = {}, .pages = pages_for(12, 3, false)};
  for (uint64_t block = 1; block <= 12; ++block) job.keys.push_back(key(block));
  fill(job.pages, 1);
  EXPECT_EQ(mover_->store(job), KVPOOL_OK);
  EXPECT_TRUE(mover_->wait_unread(job.pages, patience_us));
  engine_->clear();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(1)) << "it would take two";
  const uint32_t begun = ended(1, EventKind::stored);
  ASSERT_GE(begun, 1U) << "what was read is stored";
  EXPECT_LT(begun, 12U);
  const auto numbers = pages_for(begun, 7, true);
  EXPECT_EQ(ended(begin_load(pin(1, begun), numbers), EventKind::loaded), begun);
  EXPECT_EQ(complete_blocks(numbers, 1), begun);
  // All that is under way can be stopped.
  job.id = 2;
  EXPECT_EQ(mover_->store(job), KVPOOL_OK);
  EXPECT_TRUE(mover_->cancel_stores(patience_us));
  EXPECT_EQ(ended(2, EventKind::stored), 0U);
}

TEST(Allowance, IsAHundredthOfTheTime) {
  using std::chrono::milliseconds;
  const Allowance::Clock::time_point start{};
  Allowance allowance(milliseconds(100), start);
  EXPECT_EQ(allowance.left(start), milliseconds(100));
  allowance.spend(milliseconds(70));
  EXPECT_EQ(allowance.left(start + milliseconds(1000)), milliseconds(40));
  EXPECT_EQ(allowance.left(start + milliseconds(1000)), milliseconds(40)) << "each moment counts once";
  allowance.spend(milliseconds(500));
  EXPECT_EQ(allowance.left(start + milliseconds(1000)), milliseconds(0));
  EXPECT_EQ(allowance.left(start + milliseconds(60'000)), milliseconds(100)) << "no more is saved";
}

// An engine's pages come round after eight steps of 10 ms; in all it computes for 0.6 s.
TEST_F(PageMoverTest, AnEngineDoesNotRunAtTheSpeedOfASlowDrive) {
  start(toml({"file"}, "", "limit_write = \"2MB/s\""));
  const auto begin = std::chrono::steady_clock::now();
  for (uint64_t step = 0; step < 60; ++step) {
    StoreJob job{.id = step + 1, .chain = step, .keys = {key(2 * step), key(2 * step + 1)}, .pages = {}};
    for (uint64_t page = 0; page < 8; ++page) {
      job.pages.push_back(static_cast<int32_t>((step * 8 + page) % pages));
    }
    ASSERT_TRUE(mover_->wait_unread(job.pages, patience_us));
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    ASSERT_EQ(mover_->store(job), KVPOOL_OK);
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(3)) << "to store all takes nine";
  EXPECT_GT(mover_->stats().stored_blocks, 4U) << "what was begun is stored";
}

TEST_F(PageMoverTest, ALostBlockShortensTheLoad) {
  for (const bool windows : {false, true}) {
    start(toml({"file"}), windows);
    EXPECT_EQ(store(1, 8), 8U);
    const kvpool_pin held = pin(1, 8);
    hurt_file(0);
    const auto numbers = pages_for(8, 6, true);
    const uint32_t loaded = ended(begin_load(held, numbers), EventKind::loaded);
    EXPECT_LT(loaded, 8U);
    if (windows) {
      EXPECT_EQ(loaded, 0U) << "fewer blocks would want other windows";
    }
    EXPECT_GE(complete_blocks(numbers, 1), loaded);
    EXPECT_EQ(mover_->stats().failed_loads, 1U);
    mover_.reset();
    client_.reset();
    close();
    std::filesystem::remove(file_path());
  }
}

// The pool has no ticket for the first unit, and refuses the second.
TEST_F(PageMoverTest, ALoadClaimsNothingOfAUnitThatWasNotStartedAgain) {
  start(toml({"file"}, "tickets = 1", "limit_read = \"1MB/s\""));
  EXPECT_EQ(store(1, 12), 12U);
  auto slow = Client::pinned(pin(1, 12), 0, 12);
  const auto held = pin(1, 3);
  client_->reuse();
  slow.buffers = client_->batch(shape_, {.blocks = 12}).addresses.data();
  const kvpool_ticket ticket = client_->send(kvpool_retrieve, slow);
  while (stats().tickets_under_way == 0) std::this_thread::yield();
  const auto numbers = pages_for(6, 7, true);
  for (int round = 0; round < 20; ++round) {
    ASSERT_EQ(ended(begin_load(held, numbers), EventKind::loaded), 0U) << "round " << round;
  }
  client_->poll();
  EXPECT_EQ(client_->ends(ticket).results, 0U) << "too fast for this test";
  EXPECT_GT(stats().busy_requests, 0U);
  EXPECT_EQ(kvpool_cancel(client_->handle(), ticket), KVPOOL_OK);
  client_->finish(ticket);
}

TEST_F(PageMoverTest, ALoadEndsByItsDeadlineOrWhenItIsCancelled) {
  start(toml({"file"}, "", "limit_read = \"2MB/s\""));
  EXPECT_EQ(store(1, 12), 12U);
  const auto numbers = pages_for(12, 6, true);
  const auto begin = std::chrono::steady_clock::now();
  const kvpool_pin held = pin(1, 12);
  EXPECT_LT(ended(begin_load(held, numbers, 100'000), EventKind::loaded), 12U);
  const uint64_t id = begin_load(held, numbers);
  mover_->cancel(id);
  EXPECT_EQ(ended(id, EventKind::loaded), 0U);
  mover_->cancel(id);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20));
  // Nothing is written any more.
  engine_->clear();
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_TRUE(
      std::ranges::all_of(engine_->page(0, 0), [](std::byte byte) { return byte == std::byte{0xcc}; }));
}

TEST_F(PageMoverTest, LoadsTakeTurns) {
  start(toml({"file"}, "", "limit_read = \"20MB/s\""));
  EXPECT_EQ(store(1, 60), 60U);
  EXPECT_EQ(store(1001, 1), 1U);
  const auto long_pages = pages_for(60, 6, true);
  const uint64_t long_one = begin_load(pin(1, 60), long_pages);
  const auto short_pages = pages_for(1, 5, true);
  const uint64_t short_one = begin_load(pin(1001, 1), short_pages);
  EXPECT_EQ(ended(short_one, EventKind::loaded), 1U);
  EXPECT_EQ(ended(long_one, EventKind::loaded), 60U);
  const auto told_first = std::ranges::find(events_, EventKind::loaded, &Event::kind);
  EXPECT_EQ(told_first->id, short_one) << "it waited for all of the long one";
}

TEST_F(PageMoverTest, AStoreDoesNotWaitForAllLoads) {
  start(toml({"file"}, "", "limit_read = \"2MB/s\""));
  EXPECT_EQ(mover_->close(patience_us, &error_), KVPOOL_OK);
  mover_ = open_mover(6 << 20);  // room for more blocks than units
  EXPECT_EQ(store(1, 40), 40U);
  const kvpool_pin run = pin(1, 40);
  for (uint32_t block = 0; block < 40; ++block) {
    const LoadJob job{
        .id = ++ids_, .pin = run, .block_first = block, .blocks = 1, .pages = pages_for(1, 20, true)};
    EXPECT_EQ(mover_->load(job), KVPOOL_OK);
  }
  const StoreJob job{.id = ++ids_, .chain = 2, .keys = {key(1001)}, .pages = pages_for(1, 3, false)};
  EXPECT_EQ(mover_->store(job), KVPOOL_OK);
  EXPECT_EQ(ended(job.id, EventKind::stored), 1U);
  EXPECT_LT(mover_->stats().loaded_blocks, 10U);
  EXPECT_EQ(ended(job.id - 1, EventKind::loaded), 1U);
}

TEST_F(PageMoverTest, AFullPoolKeepsWhatItCan) {
  start(toml({"memory"}));
  uint32_t stored = 0;
  for (uint64_t first = 1; first < 400; first += 8) stored += store(first * 1000, 8);
  EXPECT_EQ(stored, 8U * 50U) << "what is older makes room";
  // A store whose parent is gone is no success, and no harm.
  EXPECT_EQ(store(1002, 2, true), 0U);
  EXPECT_EQ(mover_->stats().failed_stores, 1U);
}

TEST_F(PageMoverTest, RefusesWhatCannotBe) {
  start(toml({"memory"}));
  const auto numbers = pages_for(1, 0, false);
  EXPECT_EQ(mover_->store({.id = 1, .keys = {}, .pages = {}}), KVPOOL_INVALID_ARGUMENT);
  EXPECT_EQ(mover_->store({.id = 1, .keys = {key(1)}, .pages = {1, 2, 3}}), KVPOOL_INVALID_ARGUMENT);
  EXPECT_EQ(mover_->store({.id = 1, .keys = {key(1)}, .pages = {1, 2, 3, pages}}), KVPOOL_INVALID_ARGUMENT);
  EXPECT_EQ(mover_->store({.id = 1, .keys = {key(1)}, .pages = {1, 2, 3, -1}}), KVPOOL_INVALID_ARGUMENT);
  EXPECT_EQ(mover_->load({.id = 1, .pin = 0, .blocks = 1, .pages = numbers}), KVPOOL_INVALID_ARGUMENT);
  EXPECT_EQ(mover_->load({.id = 1, .pin = 1, .blocks = 2, .pages = numbers}), KVPOOL_INVALID_ARGUMENT);
  EXPECT_EQ(mover_->load({.id = 2, .pin = 0x123456789, .blocks = 1, .pages = numbers}), KVPOOL_OK);
  EXPECT_EQ(ended(2, EventKind::loaded), 0U) << "such a pin was never given";
  kvpool_status status = KVPOOL_OK;
  MoverOptions small = engine_->options(pool_, shape_.ns);
  small.staging_bytes = 4096;
  EXPECT_EQ(PageMover::open(std::move(small), &status, &error_), nullptr);
  EXPECT_EQ(status, KVPOOL_TOO_LARGE);
  EXPECT_NE(std::string(error_.message).find("no room for one block"), std::string::npos);
  MoverOptions greedy = engine_->options(pool_, shape_.ns);
  greedy.staging_bytes = 1 << 30;
  EXPECT_EQ(PageMover::open(std::move(greedy), &status, &error_), nullptr);
  EXPECT_NE(std::string(error_.message).find("pool.buffers"), std::string::npos) << error_.message;
}

TEST_F(PageMoverTest, RefusesPagesOfAGroupThatNoLayerIsIn) {
  start(toml({"memory"}));
  MoverOptions options = engine_->options(pool_, shape_.ns);
  options.pages.of_group.push_back(1);
  kvpool_status status = KVPOOL_OK;
  const auto other = PageMover::open(std::move(options), &status, &error_);
  ASSERT_NE(other, nullptr) << error_.message;
  EXPECT_EQ(other->store({.id = 1, .keys = {key(1)}, .pages = {0, 1, 2, 3, pages}}), KVPOOL_INVALID_ARGUMENT);
  EXPECT_EQ(other->store({.id = 1, .keys = {key(1)}, .pages = {0, 1, 2, 3, 1'000'000'000}}),
            KVPOOL_INVALID_ARGUMENT);
  EXPECT_EQ(other->store({.id = 1, .keys = {key(1)}, .pages = {0, 1, 2, 3, pages - 1}}), KVPOOL_OK);
}

TEST_F(PageMoverTest, RefusesTheIdOfAJobThatIsUnderWay) {
  start(toml({"file"}, "", "limit_write = \"1MB/s\""));
  const std::vector<int32_t> numbers = {0, 1, 2, 3};
  ASSERT_EQ(mover_->store({.id = 1, .keys = {key(1)}, .pages = numbers}), KVPOOL_OK);
  EXPECT_EQ(mover_->store({.id = 1, .keys = {key(2)}, .pages = numbers}), KVPOOL_INVALID_ARGUMENT);
  EXPECT_EQ(ended(1, EventKind::stored), 1U);
  EXPECT_EQ(mover_->store({.id = 1, .keys = {key(2)}, .pages = numbers}), KVPOOL_OK);
}

TEST_F(PageMoverTest, ClosesWithWorkUnderWay) {
  start(toml({"file"}, "", "limit_read = \"2MB/s\""));
  EXPECT_EQ(store(1, 12), 12U);
  begin_load(pin(1, 12), pages_for(12, 6, true));
  StoreJob job{.id = ++ids_, .keys = {key(500)}, .pages = pages_for(1, 1, false)};
  EXPECT_EQ(mover_->store(job), KVPOOL_OK);
  EXPECT_EQ(mover_->close(patience_us, &error_), KVPOOL_OK) << error_.message;
  EXPECT_EQ(mover_->jobs_under_way(), 0U);
  EXPECT_EQ(mover_->store(job), KVPOOL_CLOSED);
  EXPECT_EQ(mover_->close(patience_us, &error_), KVPOOL_OK);
}

TEST_F(PageMoverTest, TakesJobsFromManyThreads) {
  start(toml({"memory", "file"}));
  std::vector<std::thread> threads;
  std::atomic<uint32_t> stored = 0;
  for (uint64_t thread = 1; thread <= 3; ++thread) {
    threads.emplace_back([&, thread] {
      for (uint64_t round = 0; round < 20; ++round) {
        StoreJob job{.id = thread * 1000 + round,
                     .chain = thread,
                     .keys = {key(thread * 100'000 + round)},
                     .pages = pages_for(1, static_cast<uint32_t>(thread), false)};
        while (mover_->store(job) == KVPOOL_BUSY) std::this_thread::yield();
        if (mover_->wait_ended(job.id, patience_us)) ++stored;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(stored, 60U);
  EXPECT_EQ(mover_->take_events().size(), 120U);
}

}  // namespace
}  // namespace kvpool::pages
