// What tests of PageMover share: an engine's cache on the CPU, and a mover between it and a small pool.
//
// Thread: the test's; jobs and pages may be used by several. Failure: the test fails.

#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "api/pool_fixture.h"
#include "connectors/pages/page_mover.h"
#include "io/pool_header.h"

namespace kvpool::pages {

using api_test::Client;
using api_test::PoolTest;

inline constexpr uint32_t layers = 6;
inline constexpr uint32_t pages = 64;
inline constexpr uint32_t full_pages = 4;    // of a block, in layers without a window
inline constexpr uint32_t window_pages = 2;  // in those with one
inline constexpr uint64_t stride_bytes = 12288;
inline constexpr uint64_t patience_us = 60'000'000;

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
  [[nodiscard]] std::span<std::byte> memory() { return memory_; }
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
  std::shared_ptr<PageMover> open_mover(uint64_t staging_bytes, std::unique_ptr<PageCopier> copier = {}) {
    MoverOptions options = engine_->options(pool_, shape_.ns);
    options.staging_bytes = staging_bytes;
    options.copier = std::move(copier);
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

  // Where the mover's pages are not those of `engine_`, but a copy elsewhere.
  virtual void to_engine() {}

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

  // Begins to store blocks with the keys first_key, ..., from pages that hold them.
  uint64_t begin_store(uint64_t first_key, uint32_t blocks, bool continued = false, uint64_t after = 0) {
    const auto numbers = pages_for(blocks, 3, false);
    fill(numbers, first_key);
    to_engine();
    StoreJob job{.id = ++ids_, .chain = 1, .keys = {}, .has_parent = continued, .pages = numbers};
    for (uint32_t block = 0; block < blocks; ++block) job.keys.push_back(key(first_key + block));
    job.parent = key(first_key - 1);
    job.after = after;
    EXPECT_EQ(mover_->store(job), KVPOOL_OK);
    return job.id;
  }
  // Returns how many were stored.
  uint32_t store(uint64_t first_key, uint32_t blocks, bool continued = false) {
    const uint64_t id = begin_store(first_key, blocks, continued);
    EXPECT_TRUE(mover_->wait_gathered(id, patience_us));
    engine_->clear();  // the pages may be used again at once
    to_engine();
    return ended(id, EventKind::stored);
  }
  // Somebody hurts all that lies behind the middle of what was written to that device.
  void hurt_file(uint32_t device) {
    const int file = ::open(file_path().c_str(), O_RDWR | O_CLOEXEC);
    ASSERT_GE(file, 0);
    const auto used = static_cast<off_t>(device_stats(device).used_bytes);
    for (off_t at = used / 2 / 4096 * 4096; at < used; at += 4096) {
      const uint64_t wrong = 0xbad;
      const auto offset = static_cast<off_t>(pool_data_offset_bytes) + at;
      ASSERT_EQ(pwrite(file, &wrong, sizeof wrong, offset), static_cast<ssize_t>(sizeof wrong));
    }
    ::close(file);
  }
  kvpool_pin pin(uint64_t first_key, uint32_t blocks) { return pin(*client_, first_key, blocks); }
  kvpool_pin pin(Client& client, uint64_t first_key, uint32_t blocks) {
    const auto keys = client.allocate_array<kvpool_key>(blocks);
    for (uint32_t block = 0; block < blocks; ++block) keys[block] = key(first_key + block);
    kvpool_request request{};
    request.struct_size = sizeof request;
    request.ns = shape_.ns;
    request.keys = keys.data();
    request.blocks = blocks;
    request.flags = KVPOOL_PIN;
    const auto ends = client.run(kvpool_match, request);
    EXPECT_EQ(ends.result.blocks, blocks);
    return ends.result.pin;
  }
  uint64_t begin_load(kvpool_pin pin, const std::vector<int32_t>& numbers, uint64_t timeout_us = 0,
                      uint64_t after = 0, std::vector<LoadPart> parts = {}) {
    LoadJob job{.id = ++ids_, .pin = pin, .pages = numbers, .timeout_us = timeout_us, .after = after};
    job.parts = std::move(parts);
    job.blocks = static_cast<uint32_t>(numbers.size() / engine_->pages_of_block());
    EXPECT_EQ(mover_->load(job), KVPOOL_OK);
    return job.id;
  }
  [[nodiscard]] bool wait_ordered(uint64_t id, uint64_t timeout_us = patience_us) {
    const auto limit = std::chrono::steady_clock::now() + std::chrono::microseconds(timeout_us);
    while (std::chrono::steady_clock::now() < limit) {
      for (const Event& event : mover_->take_events()) {
        events_.push_back(event);
        if (event.id == id && event.kind == EventKind::ordered) return true;
      }
      std::this_thread::yield();
    }
    return false;
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
  std::atomic<uint64_t> ids_ = 0;
};

}  // namespace kvpool::pages
