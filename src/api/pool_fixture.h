// What the tests of the C API share: a pool over small real devices in a folder of its own, a client that
// counts both ends of its requests, and payload that tells block, segment and place.
//
// Threads: a Client belongs to one thread at a time; the payload functions to any.
// Failure: what cannot be set up fails the test that wanted it.

#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/prng.h"
#include "kvpool/kvpool.h"
#include "probe/profile_file.h"

namespace kvpool::api_test {

inline constexpr uint64_t page_bytes = 4096;
inline constexpr uint64_t patience_us = 30'000'000;
inline constexpr std::byte guard{0xEE};

// One namespace: aligned and odd sizes.
struct Shape {
  std::string name = "chained";
  std::vector<uint32_t> segment_bytes = {4096, 6000, 16384, 100};
  std::vector<uint8_t> window;
  bool flat = false;
  uint32_t ns = 0;

  [[nodiscard]] uint32_t segments() const { return static_cast<uint32_t>(segment_bytes.size()); }
  [[nodiscard]] uint64_t block_bytes() const {
    uint64_t sum = 0;
    for (const uint32_t bytes : segment_bytes) sum += bytes;
    return sum;
  }
  [[nodiscard]] kvpool_geometry raw() const {
    return {.struct_size = sizeof(kvpool_geometry),
            .name = name.c_str(),
            .block_tokens = 16,
            .segments = segments(),
            .segment_bytes = segment_bytes.data(),
            .window = window.empty() ? nullptr : window.data(),
            .flat = flat ? 1U : 0U};
  }
};

inline uint64_t word_of(const kvpool_key& key, uint32_t segment, uint64_t index) {
  return mix64(key.low * 0x9e3779b97f4a7c15ULL + (uint64_t{segment} << 40) + index);
}

inline void fill_segment(std::span<std::byte> place, const kvpool_key& key, uint32_t segment) {
  for (size_t i = 0; i < place.size(); i += 8) {
    const uint64_t word = word_of(key, segment, i / 8);
    std::memcpy(place.data() + i, &word, std::min<size_t>(8, place.size() - i));
  }
}

inline bool holds_segment(std::span<const std::byte> place, const kvpool_key& key, uint32_t segment) {
  for (size_t i = 0; i < place.size(); i += 8) {
    const uint64_t word = word_of(key, segment, i / 8);
    if (std::memcmp(place.data() + i, &word, std::min<size_t>(8, place.size() - i)) != 0) return false;
  }
  return true;
}

// Keys, addresses and the memory they name, for one request: blocks x columns.
struct Batch {
  std::span<kvpool_key> keys;
  std::span<uint64_t> addresses;
  std::vector<std::span<std::byte>> places;  // [blocks][columns]
  uint32_t segment_first = 0;
  uint32_t columns = 0;

  [[nodiscard]] std::span<std::byte> place(uint32_t block, uint32_t column) const {
    return places[size_t{block} * columns + column];
  }
  void fill() const {
    for (uint32_t block = 0; block < keys.size(); ++block) {
      for (uint32_t column = 0; column < columns; ++column) {
        fill_segment(place(block, column), keys[block], segment_first + column);
      }
    }
  }
  void clear() const {
    for (const auto& one : places) std::ranges::fill(one, guard);
  }
  [[nodiscard]] bool holds(uint32_t block, uint32_t column) const {
    return holds_segment(place(block, column), keys[block], segment_first + column);
  }
  // The leading blocks, all columns.
  [[nodiscard]] bool holds(uint32_t blocks) const {
    for (uint32_t block = 0; block < blocks; ++block) {
      for (uint32_t column = 0; column < columns; ++column) {
        if (!holds(block, column)) return false;
      }
    }
    return true;
  }
  [[nodiscard]] uint32_t blocks() const { return static_cast<uint32_t>(keys.size()); }
};

struct BatchOptions {
  uint64_t first_key = 1;  // keys first_key, first_key + 1, ...
  uint32_t blocks = 1;
  uint32_t segment_first = 0;
  uint32_t columns = 0;  // 0: all
  uint32_t misalign_bytes = 0;
};

// Both completions of a request.
struct Ends {
  kvpool_completion result{};
  kvpool_completion release{};
  uint32_t results = 0;
  uint32_t releases = 0;
  [[nodiscard]] kvpool_status status() const { return static_cast<kvpool_status>(result.status); }
};

using Call = kvpool_status (*)(kvpool_consumer*, const kvpool_request*, kvpool_ticket*);

class Client {
 public:
  explicit Client(kvpool_pool* pool, uint64_t region_bytes = 4 << 20) {
    const kvpool_consumer_options options{
        .struct_size = sizeof options, .name = "test", .region_bytes = region_bytes};
    kvpool_error error{};
    const kvpool_status status = kvpool_consumer_open(pool, &options, &consumer_, &error);
    EXPECT_EQ(status, KVPOOL_OK) << error.message;
    if (status != KVPOOL_OK) return;
    uint64_t bytes = 0;
    void* base = kvpool_region(consumer_, &bytes);
    EXPECT_EQ(bytes, region_bytes);
    use({static_cast<std::byte*>(base), bytes});
  }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;
  ~Client() { close(); }

  void close() {
    kvpool_error error{};
    EXPECT_EQ(kvpool_consumer_close(consumer_, patience_us, &error), KVPOOL_OK) << error.message;
    consumer_ = nullptr;
  }
  // The pool has closed it.
  void forget() { consumer_ = nullptr; }

  // Where batches are made from here on: some region of the consumer. All that was made before is forgotten.
  void use(std::span<std::byte> memory) {
    memory_ = memory;
    used_bytes_ = 0;
  }
  void reuse() { used_bytes_ = 0; }
  [[nodiscard]] uint64_t free_bytes() const { return memory_.size() - used_bytes_; }

  std::span<std::byte> allocate(uint64_t bytes) {
    const uint64_t begin = (used_bytes_ + page_bytes - 1) / page_bytes * page_bytes;
    if (begin + bytes > memory_.size()) {
      ADD_FAILURE() << "the test's region is too small";
      std::abort();
    }
    used_bytes_ = begin + bytes;
    std::ranges::fill(memory_.subspan(begin, bytes), guard);
    return memory_.subspan(begin, bytes);
  }
  template <class T>
  std::span<T> allocate_array(uint64_t count) {
    return {reinterpret_cast<T*>(allocate(count * sizeof(T)).data()), count};
  }

  Batch batch(const Shape& shape, const BatchOptions& options) {
    Batch made;
    made.segment_first = options.segment_first;
    made.columns = options.columns == 0 ? shape.segments() - options.segment_first : options.columns;
    made.keys = allocate_array<kvpool_key>(options.blocks);
    made.addresses = allocate_array<uint64_t>(uint64_t{options.blocks} * made.columns);
    for (uint32_t block = 0; block < options.blocks; ++block) {
      made.keys[block] = {.high = 77, .low = options.first_key + block};
      for (uint32_t column = 0; column < made.columns; ++column) {
        const uint32_t bytes = shape.segment_bytes[options.segment_first + column];
        const auto place = allocate(bytes + options.misalign_bytes).subspan(options.misalign_bytes);
        made.addresses[made.places.size()] = kvpool_address(consumer_, place.data());
        made.places.push_back(place);
      }
    }
    return made;
  }

  [[nodiscard]] static kvpool_request request(const Shape& shape, const Batch& batch) {
    kvpool_request made{};
    made.struct_size = sizeof made;
    made.ns = shape.ns;
    made.keys = batch.keys.data();
    made.blocks = batch.blocks();
    made.buffers = batch.addresses.data();
    made.segment_first = batch.segment_first;
    made.segment_count = batch.columns;
    return made;
  }
  [[nodiscard]] static kvpool_request pinned(kvpool_pin pin, uint32_t first, uint32_t blocks) {
    kvpool_request made{};
    made.struct_size = sizeof made;
    made.pin = pin;
    made.block_first = first;
    made.blocks = blocks;
    return made;
  }

  // 0 when nothing was sent.
  kvpool_ticket send(Call call, kvpool_request request) {
    request.user_data = ++sent_;
    kvpool_ticket ticket = 0;
    const kvpool_status status = call(consumer_, &request, &ticket);
    EXPECT_EQ(status, KVPOOL_OK);
    if (status != KVPOOL_OK) return 0;
    user_data_[ticket] = request.user_data;
    return ticket;
  }
  // Takes the completions that are there; returns how many.
  uint32_t poll() {
    std::array<kvpool_completion, 16> taken;
    const uint32_t count = kvpool_poll(consumer_, taken.data(), taken.size());
    for (uint32_t i = 0; i < count; ++i) {
      Ends& ends = ends_[taken[i].ticket];
      EXPECT_EQ(taken[i].user_data, user_data_[taken[i].ticket]);
      if (taken[i].kind == KVPOOL_RESULT) {
        EXPECT_EQ(ends.releases, 0U) << "a release came before its result";
        ends.result = taken[i];
        ++ends.results;
      } else {
        EXPECT_EQ(ends.results, 1U);
        ends.release = taken[i];
        ++ends.releases;
      }
      EXPECT_LE(ends.results, 1U);
      EXPECT_LE(ends.releases, 1U);
    }
    return count;
  }
  Ends& ends(kvpool_ticket ticket) { return ends_[ticket]; }
  Ends wait_result(kvpool_ticket ticket) {
    return wait(ticket, [](const Ends& ends) { return ends.results == 1; });
  }
  // Both ends; the ticket is forgotten.
  Ends finish(kvpool_ticket ticket) {
    const Ends ends = wait(ticket, [](const Ends& e) { return e.releases == 1; });
    ends_.erase(ticket);
    user_data_.erase(ticket);
    return ends;
  }
  Ends run(Call call, const kvpool_request& request) {
    const kvpool_ticket ticket = send(call, request);
    return ticket == 0 ? Ends{.result = {.status = -1}} : finish(ticket);
  }
  // A pin of the longest run of the batch's keys.
  kvpool_pin pin(const Shape& shape, const Batch& batch) {
    kvpool_request asked = request(shape, batch);
    asked.flags = KVPOOL_PIN;
    const Ends ends = run(kvpool_match, asked);
    EXPECT_NE(ends.result.pin, 0U);
    return ends.result.pin;
  }
  [[nodiscard]] kvpool_consumer* handle() const { return consumer_; }

 private:
  template <class Done>
  Ends wait(kvpool_ticket ticket, Done&& done) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(patience_us);
    while (!done(ends_[ticket])) {
      if (std::chrono::steady_clock::now() > until) {
        ADD_FAILURE() << "a request hangs";
        break;
      }
      if (poll() == 0) kvpool_wait(consumer_, 100'000);
    }
    return ends_[ticket];
  }

  kvpool_consumer* consumer_ = nullptr;
  std::span<std::byte> memory_;
  uint64_t used_bytes_ = 0;
  uint64_t sent_ = 0;
  std::map<kvpool_ticket, uint64_t> user_data_;
  std::map<kvpool_ticket, Ends> ends_;
};

class PoolTest : public testing::Test {
 protected:
  void SetUp() override {
    // Not in a folder that may lie in memory: files are opened without the page cache.
    std::string pattern = (std::filesystem::current_path() / "kvpool-api-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override {
    close();
    std::filesystem::remove_all(folder_);
  }

  [[nodiscard]] std::string file_path() const { return folder_ + "/pool.kv"; }
  // Also makes the profile, so that nothing is probed: equal shares.
  std::string toml(const std::vector<std::string>& kinds, const std::string& limits = {},
                   const std::string& device_keys = {}) {
    Profile profile{.devices = {}, .measured_at = "2026-01-01T00:00:00Z", .conditions = "made up"};
    std::string text =
        "[pool]\nplacement = \"equal\"\nstaging = \"8MiB\"\nbuffers = \"16MiB\"\ntransfer_threads = "
        "2\nprofile = \"" +
        folder_ + "/profile.json\"\n" + (limits.empty() ? "" : "[limits]\n" + limits + "\n");
    for (const std::string& kind : kinds) {
      const bool memory = kind == "memory";
      text += "[[device]]\nkind = \"" + kind + "\"\nname = \"" + kind + "\"\nsize = \"" +
              (memory ? "32MiB" : "64MiB") + "\"\n";
      if (kind == "file") text += "path = \"" + file_path() + "\"\n";
      if (!memory && !device_keys.empty()) text += device_keys + "\n";
      profile.devices.push_back({.name = kind,
                                 .read_bytes_per_second = 1e9,
                                 .write_bytes_per_second = 1e9,
                                 .read_latency = std::chrono::microseconds(100),
                                 .write_latency = std::chrono::microseconds(100),
                                 .queue_bytes = 4 << 20,
                                 .storage = !memory});
    }
    const Status saved = save_profile(folder_ + "/profile.json", profile);
    EXPECT_TRUE(saved) << saved.error().message;
    return text;
  }
  kvpool_status try_open(const std::string& text, kvpool_pool** pool) {
    const kvpool_options options{
        .struct_size = sizeof options, .config_path = nullptr, .config_toml = text.c_str()};
    return kvpool_open(&options, pool, &error_);
  }
  void open(const std::string& text) { ASSERT_EQ(try_open(text, &pool_), KVPOOL_OK) << error_.message; }
  void close() {
    EXPECT_EQ(kvpool_close(pool_, patience_us, &error_), KVPOOL_OK) << error_.message;
    pool_ = nullptr;
  }
  Shape make(Shape shape) {
    const kvpool_geometry raw = shape.raw();
    EXPECT_EQ(kvpool_namespace_open(pool_, &raw, &shape.ns, &error_), KVPOOL_OK) << error_.message;
    return shape;
  }
  // Stores `blocks` blocks from first_key on, as a chain of their own (or, flat, as they are).
  Ends store(Client& client, const Shape& shape, uint64_t first_key, uint32_t blocks) {
    client.reuse();
    const Batch batch = client.batch(shape, {.first_key = first_key, .blocks = blocks});
    batch.fill();
    return client.run(kvpool_store, Client::request(shape, batch));
  }
  // Once it has come to rest: the last step's counts are in.
  [[nodiscard]] kvpool_stats stats() const {
    kvpool_stats taken{};
    taken.struct_size = sizeof taken;
    EXPECT_EQ(kvpool_get_stats(pool_, &taken), KVPOOL_OK);
    return taken;
  }
  [[nodiscard]] kvpool_device_stats device_stats(uint32_t device) const {
    kvpool_device_stats taken{};
    taken.struct_size = sizeof taken;
    EXPECT_EQ(kvpool_get_device_stats(pool_, device, &taken), KVPOOL_OK);
    return taken;
  }

  std::string folder_;
  kvpool_pool* pool_ = nullptr;
  kvpool_error error_{};
};

}  // namespace kvpool::api_test
