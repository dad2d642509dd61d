#include "connectors/pages/page_mover.h"

#include <fcntl.h>

#include <atomic>
#include <thread>

#include "api/pool_fixture.h"

namespace kvpool::pages {
namespace {

using api_test::Client;
using api_test::PoolTest;

constexpr uint32_t layers = 6;
constexpr uint32_t pages = 64;
constexpr uint32_t full_pages = 4;    // of a block, in layers without a window
constexpr uint32_t window_pages = 2;  // in those with one
constexpr uint64_t stride_bytes = 12288;
constexpr uint64_t patience_us = 60'000'000;

// An engine's cache: layers of pages with a gap in each, the odd layers with windows if `windows`.
class Engine {
 public:
  explicit Engine(bool windows)
      : windows_(windows), memory_(uint64_t{layers} * pages * stride_bytes, std::byte{0xcc}) {}

  [[nodiscard]] MoverOptions options(kvpool_pool* pool, uint32_t ns) {
    MoverOptions made{.pool = pool, .ns = ns, .windows = windows_, .staging_bytes = 2 << 20};
    made.pages.of_group = {full_pages};
    if (windows_) made.pages.of_group.push_back(window_pages);
    for (uint32_t layer = 0; layer < layers; ++layer) {
      made.layers.push_back({.base = page(layer, 0).data(),
                             .page_stride_bytes = stride_bytes,
                             .pages = pages,
                             .pieces = {{0, 4096}, {8192, 2048}},
                             .group = group(layer)});
    }
    return made;
  }
  [[nodiscard]] api_test::Shape shape() const {
    api_test::Shape made{.name = "engine", .segment_bytes = {}};
    for (uint32_t layer = 0; layer < layers; ++layer) {
      made.segment_bytes.push_back((group(layer) == 0 ? full_pages : window_pages) * 6144);
      if (windows_) made.window.push_back(static_cast<uint8_t>(group(layer)));
    }
    return made;
  }
  [[nodiscard]] uint32_t pages_of_block() const { return full_pages + (windows_ ? window_pages : 0); }
  [[nodiscard]] uint32_t group(uint32_t layer) const { return windows_ ? layer % 2 : 0; }
  [[nodiscard]] std::span<std::byte> page(uint32_t layer, uint32_t number) {
    return std::span(memory_).subspan((uint64_t{layer} * pages + number) * stride_bytes, stride_bytes);
  }

  // What the page of a block holds, in the layers of that group.
  void fill(uint32_t group_number, int32_t number, uint64_t seed) {
    for (uint32_t layer = 0; layer < layers; ++layer) {
      if (group(layer) != group_number) continue;
      const auto bytes = page(layer, static_cast<uint32_t>(number));
      api_test::fill_segment(bytes.first(4096), {.high = 1, .low = seed}, layer);
      api_test::fill_segment(bytes.subspan(8192, 2048), {.high = 1, .low = seed}, layer + 100);
    }
  }
  [[nodiscard]] bool holds(uint32_t group_number, int32_t number, uint64_t seed) {
    for (uint32_t layer = 0; layer < layers; ++layer) {
      if (group(layer) != group_number) continue;
      const auto bytes = page(layer, static_cast<uint32_t>(number));
      if (!api_test::holds_segment(bytes.first(4096), {.high = 1, .low = seed}, layer) ||
          !api_test::holds_segment(bytes.subspan(8192, 2048), {.high = 1, .low = seed}, layer + 100)) {
        return false;
      }
    }
    return true;
  }
  void clear() { std::ranges::fill(memory_, std::byte{0xcc}); }
  // Everything but the pieces.
  [[nodiscard]] bool gaps_are_untouched() {
    for (uint32_t layer = 0; layer < layers; ++layer) {
      for (uint32_t number = 0; number < pages; ++number) {
        const auto bytes = page(layer, number);
        const auto clean = [](std::byte byte) { return byte == std::byte{0xcc}; };
        if (!std::ranges::all_of(bytes.subspan(4096, 4096), clean) ||
            !std::ranges::all_of(bytes.subspan(10240), clean)) {
          return false;
        }
      }
    }
    return true;
  }

 private:
  bool windows_;
  std::vector<std::byte> memory_;
};

class PageMoverTest : public PoolTest {
 protected:
  void start(const std::string& text, bool windows = false) {
    open(text);
    engine_ = std::make_unique<Engine>(windows);
    shape_ = make(engine_->shape());
    mover_ = open_mover(2 << 20);
    client_ = std::make_unique<Client>(pool_);
  }
  std::shared_ptr<PageMover> open_mover(uint64_t staging_bytes) {
    MoverOptions options = engine_->options(pool_, shape_.ns);
    options.staging_bytes = staging_bytes;
    kvpool_status status = KVPOOL_OK;
    auto made = PageMover::open(std::move(options), &status, &error_);
    EXPECT_EQ(status, KVPOOL_OK) << error_.message;
    return made;
  }
  void TearDown() override {
    if (mover_ != nullptr) {
      EXPECT_EQ(mover_->close(patience_us, &error_), KVPOOL_OK) << error_.message;
    }
    mover_.reset();
    client_.reset();
    PoolTest::TearDown();
  }

  static kvpool_key key(uint64_t number) { return {.high = 77, .low = number}; }
  // The pages of `blocks` blocks, in an order of their own; all but the last block's windows left out.
  [[nodiscard]] std::vector<int32_t> pages_for(uint32_t blocks, uint32_t from, bool for_load) const {
    std::vector<int32_t> made;
    const uint32_t each = engine_->pages_of_block();
    for (uint32_t i = 0; i < blocks * each; ++i) {
      const bool skipped = for_load && i % each >= full_pages && i / each + 1 < blocks;
      made.push_back(skipped ? -1 : static_cast<int32_t>((from + i * 5) % pages));
    }
    return made;
  }
  void fill(const std::vector<int32_t>& numbers, uint64_t first_key) {
    for (size_t i = 0; i < numbers.size(); ++i) {
      const size_t each = engine_->pages_of_block();
      engine_->fill(i % each < full_pages ? 0 : 1, numbers[i], seed(first_key + i / each, i % each));
    }
  }
  [[nodiscard]] uint32_t complete_blocks(const std::vector<int32_t>& numbers, uint64_t first_key) {
    const size_t each = engine_->pages_of_block();
    for (size_t i = 0; i < numbers.size(); ++i) {
      if (numbers[i] >= 0 &&
          !engine_->holds(i % each < full_pages ? 0 : 1, numbers[i], seed(first_key + i / each, i % each))) {
        return static_cast<uint32_t>(i / each);
      }
    }
    return static_cast<uint32_t>(numbers.size() / each);
  }
  static uint64_t seed(uint64_t block, size_t page) { return block * 100 + page; }

  // Stores blocks with the keys first_key, ...; returns how many were.
  uint32_t store(uint64_t first_key, uint32_t blocks, bool continued = false) {
    const auto numbers = pages_for(blocks, 3, false);
    fill(numbers, first_key);
    StoreJob job{.id = ++ids_, .chain = 1, .keys = {}, .has_parent = continued, .pages = numbers};
    for (uint32_t block = 0; block < blocks; ++block) job.keys.push_back(key(first_key + block));
    job.parent = key(first_key - 1);
    EXPECT_EQ(mover_->store(job), KVPOOL_OK);
    EXPECT_TRUE(mover_->wait_gathered(job.id, patience_us));
    engine_->clear();  // the pages may be used again at once
    return ended(job.id, EventKind::stored);
  }
  kvpool_pin pin(uint64_t first_key, uint32_t blocks) {
    const auto keys = client_->allocate_array<kvpool_key>(blocks);
    for (uint32_t block = 0; block < blocks; ++block) keys[block] = key(first_key + block);
    kvpool_request request{};
    request.struct_size = sizeof request;
    request.ns = shape_.ns;
    request.keys = keys.data();
    request.blocks = blocks;
    request.flags = KVPOOL_PIN;
    const auto ends = client_->run(kvpool_match, request);
    EXPECT_EQ(ends.result.blocks, blocks);
    return ends.result.pin;
  }
  uint64_t begin_load(kvpool_pin pin, const std::vector<int32_t>& numbers, uint64_t timeout_us = 0) {
    LoadJob job{.id = ++ids_, .pin = pin, .pages = numbers, .timeout_us = timeout_us};
    job.blocks = static_cast<uint32_t>(numbers.size() / engine_->pages_of_block());
    EXPECT_EQ(mover_->load(job), KVPOOL_OK);
    return job.id;
  }
  // The blocks of the event that ends that job.
  uint32_t ended(uint64_t id, EventKind kind) {
    EXPECT_TRUE(mover_->wait_ended(id, patience_us)) << "job " << id << " hangs";
    for (const Event& event : mover_->take_events()) events_.push_back(event);
    for (const Event& event : events_) {
      if (event.id == id && event.kind == kind) return event.blocks;
    }
    ADD_FAILURE() << "job " << id << " ended without a word";
    return 0;
  }

  std::unique_ptr<Engine> engine_;
  api_test::Shape shape_;
  std::shared_ptr<PageMover> mover_;
  std::unique_ptr<Client> client_;
  std::vector<Event> events_;
  uint64_t ids_ = 0;
};

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

TEST_F(PageMoverTest, APageMayBeReusedWhenNoStoreReadsIt) {
  start(toml({"file"}, "", "limit_write = \"20MB/s\""));
  mover_ = nullptr;
  mover_ = open_mover(layers * full_pages * 8192 + (1 << 16));  // a block at a time
  const auto numbers = pages_for(8, 3, false);
  fill(numbers, 1);
  StoreJob job{.id = 1, .keys = {}, .pages = numbers};
  for (uint64_t block = 1; block <= 8; ++block) job.keys.push_back(key(block));
  EXPECT_EQ(mover_->store(job), KVPOOL_OK);
  const std::vector<int32_t> last = {numbers.back()};
  const std::vector<int32_t> others = {-1, 1 << 20, static_cast<int32_t>((3 + 32 * 5) % pages)};
  // Another, of another chain, reads one of its pages too, and is done long before.
  EXPECT_EQ(
      mover_->store({.id = 2, .chain = 9, .keys = {key(900)}, .pages = std::vector(full_pages, last[0])}),
      KVPOOL_OK);
  EXPECT_FALSE(mover_->wait_unread(last, 0));
  EXPECT_TRUE(mover_->wait_unread(others, 0)) << "these are no pages of the store";
  EXPECT_TRUE(mover_->wait_unread(last, patience_us));
  engine_->clear();
  EXPECT_EQ(ended(1, EventKind::stored), 8U);
  const auto target = pages_for(8, 7, true);
  EXPECT_EQ(ended(begin_load(pin(1, 8), target), EventKind::loaded), 8U);
  EXPECT_EQ(complete_blocks(target, 1), 8U);
}

TEST_F(PageMoverTest, WhoWaitsForPagesDoesNotWaitForASlowDrive) {
  start(toml({"file"}, "", "limit_write = \"1MB/s\""));
  mover_ = nullptr;
  mover_ = open_mover(layers * full_pages * 8192 + (1 << 16));
  const auto begin = std::chrono::steady_clock::now();
  StoreJob job{.id = 1, .keys = {}, .pages = pages_for(12, 3, false)};
  for (uint64_t block = 1; block <= 12; ++block) job.keys.push_back(key(block));
  EXPECT_EQ(mover_->store(job), KVPOOL_OK);
  EXPECT_TRUE(mover_->wait_unread(job.pages, patience_us));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(1)) << "it would take two";
  EXPECT_EQ(ended(1, EventKind::stored), 0U);
  // All that is under way can be stopped.
  job.id = 2;
  EXPECT_EQ(mover_->store(job), KVPOOL_OK);
  EXPECT_TRUE(mover_->cancel_stores(patience_us));
  EXPECT_EQ(ended(2, EventKind::stored), 0U);
}

TEST_F(PageMoverTest, ALostBlockShortensTheLoad) {
  for (const bool windows : {false, true}) {
    start(toml({"file"}), windows);
    EXPECT_EQ(store(1, 8), 8U);
    const kvpool_pin held = pin(1, 8);
    // Somebody hurts all that lies behind the middle of what was written.
    const int file = ::open(file_path().c_str(), O_RDWR | O_CLOEXEC);
    ASSERT_GE(file, 0);
    const auto used = static_cast<off_t>(device_stats(0).used_bytes);
    for (off_t at = used / 2; at < used + (2 << 20); at += 4096) {
      const uint64_t wrong = 0xbad;
      ASSERT_EQ(pwrite(file, &wrong, sizeof wrong, at), static_cast<ssize_t>(sizeof wrong));
    }
    ::close(file);
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
  EXPECT_FALSE(mover_->wait_ended(long_one, 0)) << "the short one waited for all of the long one";
  EXPECT_EQ(ended(long_one, EventKind::loaded), 60U);
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
