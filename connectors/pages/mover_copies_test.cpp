// PageMover with a copier that completes late.

#include <array>
#include <string>
#include <thread>

#include "connectors/pages/late_fixture.h"

namespace kvpool::pages {
namespace {

class MoverCopies : public LateMoverTest {
 protected:
  [[nodiscard]] bool is_untouched() {
    return std::ranges::all_of(engine_->page(0, 0), [](std::byte byte) { return byte == std::byte{0xcc}; });
  }
  // Of 12 blocks, after event 9 and in three parts; none of its batches ends, and so many are taken on.
  uint64_t begin_held_load(size_t batches_max) {
    start_late(toml({"memory", "file"}));
    EXPECT_EQ(store(1, 12), 12U);
    late_->hold(Late::to_pages, true);
    late_->come(9);
    {
      const std::lock_guard lock(late_->mutex);
      late_->batches_max = batches_max;
      late_->parts_max = 9;
    }
    return begin_load(pin(1, 12), pages_for(12, 7, true), 0, 9, in_parts());
  }
  void expect_loads(uint64_t first_key, uint32_t blocks) {
    const auto numbers = pages_for(blocks, 7, true);
    for (const auto& parts : {std::vector<LoadPart>{}, in_parts()}) {
      SCOPED_TRACE(std::to_string(parts.size()) + " parts");
      engine_->clear();
      EXPECT_EQ(ended(begin_load(pin(first_key, blocks), numbers, 0, 0, parts), EventKind::loaded), blocks);
      EXPECT_EQ(complete_blocks(numbers, first_key), blocks);
      EXPECT_TRUE(engine_->gaps_are_untouched());
    }
  }
};

TEST_F(MoverCopies, BringBackWhatWasStored) {
  const std::vector<std::vector<std::string>> mixes = {{"memory"}, {"file"}, {"memory", "file"}};
  for (const auto& kinds : mixes) {
    for (const bool windows : {false, true}) {
      SCOPED_TRACE(kinds.front() + std::to_string(kinds.size()) + (windows ? " with windows" : ""));
      start_late(toml(kinds), windows, kinds.size());
      const uint32_t more = windows ? 1 : 3;  // as many as have pages of their own
      for (const size_t parts_max : {size_t{1}, size_t{7}, SIZE_MAX}) {
        {
          const std::lock_guard lock(late_->mutex);
          late_->parts_max = parts_max;
        }
        const uint64_t first = 1 + 100 * std::min<size_t>(parts_max, 10);
        EXPECT_EQ(store(first, 9), 9U);
        EXPECT_EQ(store(first + 9, more, true), more);
        expect_loads(first, 9 + more);
      }
      EXPECT_EQ(mover_->stats().loaded_blocks, 2 * 3 * (9 + more));
      const uint32_t with_window =
          windows ? layers / 2 : 0;  // of which the last block's pages alone are wanted
      EXPECT_EQ(
          mover_->stats().loaded_bytes,
          2U * 3U * ((layers - with_window) * (9 + more) * full_pages + with_window * window_pages) * 6144U);
      EXPECT_EQ(mover_->stats().stored_blocks, 3 * (9 + more));
      EXPECT_EQ(mover_->jobs_under_way(), 0U);
      mover_.reset();
      client_.reset();
      close();
      std::filesystem::remove(file_path());
    }
  }
}

// Stores name slots of the mover's region.
TEST_F(MoverCopies, ReadWhatLiesInMemoryWhereItLies) {
  for (const bool in_memory : {true, false}) {
    start_late(toml({in_memory ? "memory" : "file"}));
    EXPECT_EQ(store(1, 16), 16U);
    expect_loads(1, 16);
    const auto& [loaded, stored] = late_->segments;
    ASSERT_FALSE(stored.empty());
    ASSERT_FALSE(loaded.empty());
    if (in_memory) {
      EXPECT_EQ(loaded.size(), 16U * layers) << "each has a place of its own";
    }
    for (const std::byte* const segment : loaded) {
      if (in_memory) {
        ASSERT_FALSE(stored.contains(segment));
      } else {
        ASSERT_LT(std::abs(segment - *stored.begin()), 2 << 20);
      }
    }
    mover_.reset();
    client_.reset();
    close();
    std::filesystem::remove(file_path());
  }
}

TEST_F(MoverCopies, ALoadIsOverWhenTheyAre) {
  start_late(toml({"memory", "file"}));
  EXPECT_EQ(store(1, 12), 12U);
  late_->hold(Late::to_pages, true);
  const auto numbers = pages_for(12, 7, true);
  const uint64_t id = begin_load(pin(1, 12), numbers);
  ASSERT_TRUE(late_->wait_waiting(Late::to_pages, 3));
  EXPECT_FALSE(mover_->wait_ended(id, moment_us));
  EXPECT_EQ(mover_->stats().loaded_blocks, 0U);
  EXPECT_TRUE(is_untouched());
  // Stores go on, and have memory.
  EXPECT_EQ(store(101, 4), 4U);
  late_->hold(Late::to_pages, false);
  EXPECT_EQ(ended(id, EventKind::loaded), 12U);
  EXPECT_EQ(complete_blocks(numbers, 1), 12U);
}

TEST_F(MoverCopies, AStoreReadsItsPagesUntilTheyAre) {
  start_late(toml({"memory"}));
  EXPECT_EQ(store(101, 4), 4U);
  late_->hold(Late::to_segments, true);
  const uint64_t id = begin_store(1, 12);
  const std::vector<int32_t> page = {3};
  ASSERT_TRUE(late_->wait_waiting(Late::to_segments, 1));
  EXPECT_FALSE(mover_->wait_gathered(id, moment_us));
  EXPECT_FALSE(mover_->wait_unread(page, moment_us));
  EXPECT_FALSE(mover_->wait_ended(id, 0));
  EXPECT_EQ(stats().stored_blocks, 4U);
  const auto numbers = pages_for(4, 40, true);
  EXPECT_EQ(ended(begin_load(pin(101, 4), numbers), EventKind::loaded), 4U) << "loads go on";
  fill(pages_for(12, 3, false), 1);  // some pages were the load's
  late_->hold(Late::to_segments, false);
  EXPECT_TRUE(mover_->wait_gathered(id, patience_us));
  engine_->clear();
  EXPECT_EQ(ended(id, EventKind::stored), 12U);
  expect_loads(1, 12);
}

TEST_F(MoverCopies, ACancelledJobEndsWhenTheyHaveEnded) {
  start_late(toml({"memory", "file"}));
  EXPECT_EQ(store(1, 12), 12U);
  late_->hold(Late::to_pages, true);
  late_->hold(Late::to_segments, true);
  const uint64_t load = begin_load(pin(1, 12), pages_for(12, 7, true));
  const uint64_t store = begin_store(101, 8);
  ASSERT_TRUE(late_->wait_waiting(Late::to_pages, 1));
  ASSERT_TRUE(late_->wait_waiting(Late::to_segments, 1));
  mover_->cancel(load);
  mover_->cancel(store);
  EXPECT_FALSE(mover_->wait_ended(load, moment_us));
  EXPECT_FALSE(mover_->wait_ended(store, moment_us));
  EXPECT_FALSE(mover_->wait_gathered(store, 0));
  late_->hold(Late::to_pages, false);
  late_->hold(Late::to_segments, false);
  EXPECT_EQ(ended(load, EventKind::loaded), 0U);
  EXPECT_EQ(ended(store, EventKind::stored), 0U);
  EXPECT_EQ(mover_->stats().loaded_blocks, 0U);
  EXPECT_EQ(stats().ready_blocks, 12U);
  expect_loads(1, 12);
}

TEST_F(MoverCopies, AJobWaitsForItsEvent) {
  start_late(toml({"memory"}));
  const uint64_t store = begin_store(1, 4, false, 5);
  EXPECT_FALSE(mover_->wait_gathered(store, moment_us));
  late_->come(5);
  EXPECT_EQ(ended(store, EventKind::stored), 4U);
  engine_->clear();
  const auto numbers = pages_for(4, 7, true);
  // Its deadline ends what it asks of the pool; pages are written until it has ended.
  const uint64_t load = begin_load(pin(1, 4), numbers, moment_us, 6);
  EXPECT_FALSE(mover_->wait_ended(load, 2 * moment_us));
  EXPECT_TRUE(is_untouched());
  late_->come(6);
  EXPECT_EQ(ended(load, EventKind::loaded), 4U) << "the pool was in time";
  EXPECT_EQ(complete_blocks(numbers, 1), 4U);
}

// Whoever gives a GPU work behind the events need not wait for the copies.
TEST_F(MoverCopies, AreOrderedBeforeTheyEnd) {
  const uint64_t id = begin_held_load(1000);
  const auto numbers = pages_for(12, 7, true);
  ASSERT_TRUE(wait_ordered(id));
  EXPECT_TRUE(is_untouched());
  EXPECT_FALSE(mover_->wait_ended(id, 0));
  late_->hold(Late::to_pages, false);
  EXPECT_EQ(ended(id, EventKind::loaded), 12U);
  EXPECT_EQ(complete_blocks(numbers, 1), 12U);
  expect_events(id, in_parts(), 12);
}

TEST_F(MoverCopies, AreWaitedForWhereAnOrderedLoadIsCancelled) {
  const uint64_t id = begin_held_load(1000);
  const auto numbers = pages_for(12, 7, true);
  ASSERT_TRUE(wait_ordered(id));
  mover_->cancel(id);
  EXPECT_FALSE(mover_->wait_ended(id, moment_us)) << "they still write its pages";
  late_->hold(Late::to_pages, false);
  EXPECT_EQ(ended(id, EventKind::loaded), 0U);
  EXPECT_EQ(complete_blocks(numbers, 1), 12U) << "whoever waited for the event found them";
}

TEST_F(MoverCopies, AreNotOrderedWhereTheLoadMayFail) {
  const uint64_t id = begin_held_load(1);  // the other batches wait
  ASSERT_TRUE(late_->wait_waiting(Late::to_pages, 1));
  EXPECT_FALSE(mover_->wait_ended(id, moment_us));
  mover_->cancel(id);
  late_->hold(Late::to_pages, false);
  EXPECT_EQ(ended(id, EventKind::loaded), 0U);
  for (const Event& event : events_) EXPECT_NE(event.kind, EventKind::ordered);
}

TEST_F(MoverCopies, ThatFailFailEveryJobAndNoneHangs) {
  for (int64_t good = 0; good < 8; ++good) {
    SCOPED_TRACE("after " + std::to_string(good));
    start_late(toml({"memory", "file"}), false, static_cast<uint64_t>(good) + 1);
    {
      const std::lock_guard lock(late_->mutex);
      late_->parts_max = 9;
    }
    EXPECT_EQ(store(1, 12), 12U);
    const kvpool_pin held = pin(1, 12);
    late_->break_after(good);
    const auto numbers = pages_for(12, 7, true);
    const uint64_t first = begin_load(held, numbers);
    const uint32_t loaded = ended(first, EventKind::loaded);
    EXPECT_LT(loaded, 12U);
    EXPECT_GE(complete_blocks(numbers, 1), loaded);
    EXPECT_EQ(mover_->stats().failed_loads, 1U);
    EXPECT_GE(mover_->stats().loaded_blocks, loaded);
    late_->break_after(0);
    EXPECT_EQ(ended(begin_load(held, numbers), EventKind::loaded), 0U);
    const uint64_t stored = begin_store(501, 3);
    EXPECT_TRUE(mover_->wait_gathered(stored, patience_us));
    EXPECT_EQ(ended(stored, EventKind::stored), 0U);
    EXPECT_EQ(stats().ready_blocks, 12U);
    EXPECT_EQ(mover_->close(patience_us, &error_), KVPOOL_OK) << error_.message;
    mover_.reset();
    client_.reset();
    close();
    std::filesystem::remove(file_path());
  }
}

TEST_F(MoverCopies, ThatFailEndAStoreWithTheBlocksBefore) {
  start_late(toml({"memory"}));
  use_late(layers * full_pages * 8192 + (1 << 16));  // a block at a time
  late_->break_after(2);
  const uint64_t id = begin_store(1, 12);
  EXPECT_TRUE(mover_->wait_gathered(id, patience_us));
  EXPECT_EQ(ended(id, EventKind::stored), 2U);
  EXPECT_EQ(mover_->stats().failed_stores, 1U);
  EXPECT_EQ(stats().ready_blocks, 2U);
}

TEST_F(MoverCopies, ALostBlockShortensTheLoad) {
  start_late(toml({"memory", "file"}));
  EXPECT_EQ(store(1, 12), 12U);
  const kvpool_pin held = pin(1, 12);
  hurt_file(1);
  const auto numbers = pages_for(12, 6, true);
  const uint64_t id = begin_load(held, numbers, 0, 0, in_parts());
  const uint32_t loaded = ended(id, EventKind::loaded);
  EXPECT_LT(loaded, 12U);
  EXPECT_GT(loaded, 0U) << "the layers of those before it come all the same";
  EXPECT_GE(complete_blocks(numbers, 1), loaded);
  for (const Event& event : events_) EXPECT_FALSE(event.id == id && event.kind == EventKind::ordered);
}

TEST_F(MoverCopies, OfALoadInPartsThatIsLateAreOfNoUse) {
  start(toml({"file"}, "", "limit_read = \"1MB/s\""));
  use_late(2 << 20);
  EXPECT_EQ(store(1, 12), 12U);
  const uint64_t id = begin_load(pin(1, 12), pages_for(12, 7, true), 3 * moment_us, 0, in_parts());
  EXPECT_EQ(ended(id, EventKind::loaded), 0U);
}

TEST_F(MoverCopies, ClosingWaitsForThem) {
  start_late(toml({"memory"}));
  EXPECT_EQ(store(1, 4), 4U);
  late_->hold(Late::to_pages, true);
  begin_load(pin(1, 4), pages_for(4, 7, true));
  ASSERT_TRUE(late_->wait_waiting(Late::to_pages, 1));
  EXPECT_EQ(mover_->close(moment_us, &error_), KVPOOL_TIMED_OUT);
  EXPECT_NE(std::string(error_.message), "");
  late_->hold(Late::to_pages, false);
  EXPECT_EQ(mover_->close(patience_us, &error_), KVPOOL_OK) << error_.message;
}

TEST_F(MoverCopies, ThatKnowNoEventsRefuseThem) {
  start(toml({"memory"}));
  EXPECT_EQ(mover_->store({.id = 1, .keys = {key(1)}, .pages = {0, 1, 2, 3}, .after = 1}),
            KVPOOL_INVALID_ARGUMENT);
  EXPECT_EQ(mover_->load({.id = 1, .pin = 1, .blocks = 1, .pages = {0, 1, 2, 3}, .after = 1}),
            KVPOOL_INVALID_ARGUMENT);
  EXPECT_EQ(mover_->load({.id = 1, .pin = 1, .blocks = 1, .pages = {0, 1, 2, 3}, .parts = {{layers, 1}}}),
            KVPOOL_INVALID_ARGUMENT);
}

TEST_F(MoverCopies, ComeInPartsThatAreAllLayers) {
  start_late(toml({"memory"}));
  const std::vector<std::vector<LoadPart>> bad = {
      {{2, 1}}, {{2, 1}, {2, 2}, {layers, 3}}, {{4, 1}, {2, 2}}, {{layers + 1, 1}}, {{2, 0}, {layers, 1}}};
  for (const auto& parts : bad) {
    EXPECT_EQ(mover_->load({.id = 1, .pin = 1, .blocks = 1, .pages = {0, 1, 2, 3}, .parts = parts}),
              KVPOOL_INVALID_ARGUMENT);
  }
}

// Each thread has a quarter of the pages: it stores from one half and loads into the other.
void move_back_and_forth(PageMover& mover, Engine& engine, Client& client, uint32_t ns, uint64_t thread) {
  Prng random(thread);
  const auto first_page = static_cast<int32_t>(thread * 16);
  for (uint64_t round = 0; round < 25; ++round) {
    const uint64_t id = thread * 1000 + round * 2;
    StoreJob store{.id = id, .chain = thread, .keys = {}, .pages = {}};
    LoadJob load{.id = id + 1, .blocks = 2, .pages = {}};
    client.reuse();
    const auto keys = client.allocate_array<kvpool_key>(2);
    for (uint64_t block = 0; block < 2; ++block) {
      keys[block] = {.high = 78, .low = id * 10 + block};
      store.keys.push_back(keys[block]);
      for (int32_t page = 0; page < 4; ++page) {
        store.pages.push_back(first_page + static_cast<int32_t>(block) * 4 + page);
        load.pages.push_back(first_page + 8 + static_cast<int32_t>(block) * 4 + page);
        engine.fill(0, store.pages.back(), id * 100 + block * 10 + static_cast<uint64_t>(page));
      }
    }
    ASSERT_EQ(mover.store(store), KVPOOL_OK);
    if (random.chance(0.2)) mover.cancel(id);
    ASSERT_TRUE(mover.wait_gathered(id, patience_us));
    for (const int32_t page : store.pages) engine.fill(0, page, 0);
    ASSERT_TRUE(mover.wait_ended(id, patience_us));
    kvpool_request request{};
    request.struct_size = sizeof request;
    request.ns = ns;
    request.keys = keys.data();
    request.blocks = 2;
    request.flags = KVPOOL_PIN;
    const auto match = client.run(kvpool_match, request);
    if (match.result.blocks < 2) continue;  // cancelled
    load.pin = match.result.pin;
    ASSERT_EQ(mover.load(load), KVPOOL_OK);
    const bool cancelled = random.chance(0.3);
    if (cancelled) mover.cancel(load.id);
    ASSERT_TRUE(mover.wait_ended(load.id, patience_us));
    for (size_t i = 0; i < load.pages.size() && !cancelled; ++i) {
      ASSERT_TRUE(engine.holds(0, load.pages[i], id * 100 + i / 4 * 10 + i % 4)) << round << " " << i;
    }
    client.run(kvpool_unpin, Client::pinned(load.pin, 0, 0));
  }
}

TEST_F(MoverCopies, OfManyThreadsDoNotMeet) {
  start_late(toml({"memory", "file"}));
  use_late(layers * full_pages * 8192 * 5, 7);
  {
    const std::lock_guard lock(late_->mutex);
    late_->parts_max = 5;
  }
  std::vector<std::thread> threads;
  for (uint64_t thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      Client client(pool_, 64 << 10);
      move_back_and_forth(*mover_, *engine_, client, shape_.ns, thread);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(mover_->jobs_under_way(), 0U);
  EXPECT_GT(mover_->stats().loaded_blocks, 60U);
}

}  // namespace
}  // namespace kvpool::pages
