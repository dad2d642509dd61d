// PageMover with loads in parts: what the pool refuses for now, and layers of very different sizes.

#include <algorithm>
#include <array>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "connectors/pages/late_fixture.h"
#include "connectors/pages/mover_work.h"

namespace kvpool::pages {
namespace {

// An engine's cache of one page a block, whose layers are wide or narrow.
class UnevenCache {
 public:
  static constexpr std::array<uint32_t, layers> page_bytes = {12288, 64, 200, 12288, 64, 12288};
  static constexpr uint32_t blocks = 200;
  static constexpr uint64_t slot_bytes = 3 * 12288 + 3 * 4096;  // of a mover's, for a block

  UnevenCache() { clear(); }

  [[nodiscard]] MoverOptions options(kvpool_pool* pool, uint32_t ns, uint64_t staging_bytes) {
    MoverOptions made{.pool = pool, .ns = ns, .pages = {{1}}, .staging_bytes = staging_bytes};
    for (uint32_t layer = 0; layer < layers; ++layer) {
      made.layers.push_back({.base = memory_[layer].data(),
                             .page_stride_bytes = page_bytes[layer],
                             .pages = blocks,
                             .pieces = {{0, page_bytes[layer]}}});
    }
    return made;
  }
  [[nodiscard]] static api_test::Shape shape() {
    return {.name = "uneven", .segment_bytes = {page_bytes.begin(), page_bytes.end()}};
  }
  [[nodiscard]] std::span<std::byte> page(uint32_t layer, int32_t number) {
    return std::span(memory_[layer])
        .subspan(static_cast<size_t>(number) * page_bytes[layer], page_bytes[layer]);
  }
  void clear() {
    for (uint32_t layer = 0; layer < layers; ++layer) {
      memory_[layer].assign(uint64_t{blocks} * page_bytes[layer], std::byte{0xcc});
    }
  }

 private:
  std::array<std::vector<std::byte>, layers> memory_;
};

class MoverParts : public LateMoverTest {
 protected:
  // Another consumer's retrieve, which has the pool's only ticket for a while.
  kvpool_ticket begin_slow_retrieve(kvpool_pin held, uint32_t blocks) {
    auto request = Client::pinned(held, 0, blocks);
    request.buffers = client_->batch(shape_, {.blocks = blocks}).addresses.data();
    const kvpool_ticket ticket = client_->send(kvpool_retrieve, request);
    while (stats().tickets_under_way == 0) std::this_thread::yield();
    return ticket;
  }
  void wait_refused(kvpool_ticket slow, uint64_t requests) {
    while (stats().busy_requests < requests && client_->ends(slow).results == 0) client_->poll();
    EXPECT_EQ(client_->ends(slow).results, 0U) << "too fast for this test";
  }
  void use_late_for_cache(uint64_t staging_bytes) {
    mover_ = nullptr;
    late_ = std::make_shared<Late>();
    MoverOptions options = cache_.options(pool_, shape_.ns, staging_bytes);
    options.copier = std::make_unique<LateCopier>(late_, staging_bytes);
    kvpool_status status = KVPOOL_OK;
    mover_ = PageMover::open(std::move(options), &status, &error_);
    ASSERT_EQ(status, KVPOOL_OK) << error_.message;
  }

  UnevenCache cache_;
};

// Four units have memory for their blocks: one is all of the first part, three of the second. All are
// refused; a store takes memory then, so that what is tried again is cut anew, and the first part waits.
TEST_F(MoverParts, ComeOnceThoughThePoolWasBusy) {
  start(toml({"memory", "file"}, "tickets = 1", "limit_read = \"500KB/s\""));
  use_late(8 * layers * full_pages * 6144 + (1 << 16));
  EXPECT_EQ(store(1, 12), 12U);
  const kvpool_pin held = pin(1, 12);
  const kvpool_ticket slow = begin_slow_retrieve(held, 12);
  const auto numbers = pages_for(12, 3 + 5 * full_pages, true);  // none that the store reads
  const uint64_t load = begin_load(held, numbers, 0, 0, in_parts());
  wait_refused(slow, 4);
  late_->hold(Late::to_segments, true);
  const uint64_t other = begin_store(101, 1);
  ASSERT_TRUE(late_->wait_waiting(Late::to_segments, 1));
  wait_refused(slow, stats().busy_requests + 8);
  // Not again and again at once: 50 ms would be enough for thousands.
  const uint64_t refused = stats().busy_requests;
  const auto began = std::chrono::steady_clock::now();
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  const auto waited = std::chrono::steady_clock::now() - began;
  const auto turns = static_cast<uint64_t>(waited / std::chrono::milliseconds(1)) + 1;
  EXPECT_LE(stats().busy_requests - refused, 16 * turns);  // as many as it has units
  EXPECT_EQ(mover_->stats().loaded_bytes, 0U);
  EXPECT_EQ(kvpool_cancel(client_->handle(), slow), KVPOOL_OK);
  client_->finish(slow);
  EXPECT_EQ(ended(load, EventKind::loaded), 12U);
  EXPECT_EQ(complete_blocks(numbers, 1), 12U);
  EXPECT_TRUE(engine_->gaps_are_untouched());
  expect_events(load, in_parts(), 12);
  EXPECT_LE(std::ranges::count(events_, EventKind::ordered, &Event::kind), 1);
  EXPECT_EQ(mover_->stats().loaded_blocks, 12U);
  EXPECT_EQ(mover_->stats().loaded_bytes, 12U * layers * full_pages * 6144);
  EXPECT_EQ(mover_->stats().failed_loads, 0U);
  while (stats().tickets_under_way > 0) std::this_thread::yield();
  late_->hold(Late::to_segments, false);
  EXPECT_EQ(ended(other, EventKind::stored), 1U);
}

// What was refused is made anew in the order of its parts and blocks, whatever the order of the refusals.
TEST(MoverJob, TakesWhatWasRefusedFirstThingsFirst) {
  using Range = PageMover::Job::Range;
  constexpr uint32_t blocks = 10;
  PageMover::Job job;
  job.blocks = job.good = blocks;
  job.parts = {{2, 11}, {layers, 12}};
  const auto take = [&](uint32_t most) {
    const Range next = job.next();
    const uint32_t count = std::min(next.count, most);
    job.take(next, count);
    return Range{next.part, next.first, count};
  };
  std::vector<Range> taken;
  while (!job.all_started()) taken.push_back(take(4));  // of each part 4, 4 and 2 blocks
  ASSERT_EQ(taken.size(), 6U);
  for (const size_t refused : {4, 0, 5, 1}) job.put_back(taken[refused]);
  EXPECT_TRUE(job.wants_more());
  std::vector<std::array<uint32_t, 3>> again;
  while (job.wants_more()) {
    const Range range = take(3);
    again.push_back({range.part, range.first, range.count});
  }
  const std::vector<std::array<uint32_t, 3>> expected = {{0, 0, 3}, {0, 3, 1}, {0, 4, 3}, {0, 7, 1},
                                                         {1, 4, 3}, {1, 7, 1}, {1, 8, 2}};
  EXPECT_EQ(again, expected);
}

// Many blocks of them have room in a slot, more than a unit can name.
TEST_F(MoverParts, OfNarrowLayersAloneComeWhole) {
  constexpr uint32_t blocks = UnevenCache::blocks;
  const std::vector<LoadPart> parts = {{1, 11}, {3, 12}, {4, 13}, {5, 14}, {layers, 15}};
  open(toml({"memory", "file"}));
  shape_ = make(UnevenCache::shape());
  client_ = std::make_unique<Client>(pool_);
  for (const uint64_t staging_bytes : {uint64_t{4} << 20, UnevenCache::slot_bytes + (1 << 16)}) {
    SCOPED_TRACE("staging of " + std::to_string(staging_bytes));
    use_late_for_cache(staging_bytes);
    const uint64_t first_key = 1 + 1000 * ids_;
    StoreJob store{.id = ++ids_, .chain = 1, .keys = {}, .pages = {}};
    LoadJob load{.id = ++ids_, .blocks = blocks, .pages = {}, .parts = parts};
    cache_.clear();
    for (uint32_t block = 0; block < blocks; ++block) {
      store.keys.push_back(key(first_key + block));
      store.pages.push_back(static_cast<int32_t>(block));
      load.pages.push_back(static_cast<int32_t>((block * 7 + 3) % blocks));
      for (uint32_t layer = 0; layer < layers; ++layer) {
        api_test::fill_segment(cache_.page(layer, store.pages[block]), store.keys[block], layer);
      }
    }
    EXPECT_EQ(mover_->store(store), KVPOOL_OK);
    EXPECT_EQ(ended(store.id, EventKind::stored), blocks);
    cache_.clear();
    client_->reuse();
    load.pin = pin(first_key, blocks);
    EXPECT_EQ(mover_->load(load), KVPOOL_OK);
    EXPECT_EQ(ended(load.id, EventKind::loaded), blocks);
    for (uint32_t layer = 0; layer < layers; ++layer) {
      for (uint32_t block = 0; block < blocks; ++block) {
        ASSERT_TRUE(api_test::holds_segment(cache_.page(layer, load.pages[block]), store.keys[block], layer))
            << "layer " << layer << ", block " << block;
      }
    }
    expect_events(load.id, parts, blocks);
    EXPECT_EQ(mover_->stats().loaded_bytes, uint64_t{blocks} * shape_.block_bytes());
  }
}

}  // namespace
}  // namespace kvpool::pages
