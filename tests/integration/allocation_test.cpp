// No allocation on the data path: once a pool has run for a while, nothing in the process takes memory from
// the heap, on any thread, whatever is stored, matched, retrieved, staged or evicted. This program replaces
// the C library's allocating functions, so it is one of its own.

#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>

#include "kvpool/kvpool.h"
#include "probe/profile_file.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define KVPOOL_COUNTS_ALLOCATIONS 0  // the sanitizers have these functions already
#else
#define KVPOOL_COUNTS_ALLOCATIONS 1
#endif

namespace {

std::atomic<bool> counting{false};
std::atomic<uint64_t> allocations{0};

#if KVPOOL_COUNTS_ALLOCATIONS
void count() {
  if (counting.load(std::memory_order_relaxed)) allocations.fetch_add(1, std::memory_order_relaxed);
}
#endif

}  // namespace

#if KVPOOL_COUNTS_ALLOCATIONS
extern "C" {
void* __libc_malloc(size_t bytes);
void* __libc_calloc(size_t count, size_t bytes);
void* __libc_realloc(void* memory, size_t bytes);
void* __libc_memalign(size_t alignment, size_t bytes);

// operator new comes through here too.
void* malloc(size_t bytes) {
  count();
  return __libc_malloc(bytes);
}
void* calloc(size_t items, size_t bytes) {
  count();
  return __libc_calloc(items, bytes);
}
void* realloc(void* memory, size_t bytes) {
  count();
  return __libc_realloc(memory, bytes);
}
void* memalign(size_t alignment, size_t bytes) {
  count();
  return __libc_memalign(alignment, bytes);
}
void* aligned_alloc(size_t alignment, size_t bytes) {
  count();
  return __libc_memalign(alignment, bytes);
}
int posix_memalign(void** memory, size_t alignment, size_t bytes) {
  count();
  *memory = __libc_memalign(alignment, bytes);
  return *memory == nullptr ? ENOMEM : 0;
}
}
#endif

namespace kvpool {
namespace {

constexpr uint32_t segments = 4;
constexpr std::array<uint32_t, segments> segment_bytes = {4096, 6000, 65536, 100};
constexpr uint32_t blocks = 8;
constexpr uint64_t place_bytes = 65536;
constexpr uint32_t chains = 160;  // of 8 blocks of 74 KiB: twice what the devices hold

class Allocation : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::current_path() / "kvpool-allocation-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override {
    counting = false;
    kvpool_error error{};
    EXPECT_EQ(kvpool_consumer_close(consumer_, 10'000'000, &error), KVPOOL_OK) << error.message;
    EXPECT_EQ(kvpool_close(pool_, 10'000'000, &error), KVPOOL_OK) << error.message;
    std::filesystem::remove_all(folder_);
  }

  // `devices`: the configuration's tables; all have the same share.
  void open(const std::string& devices, std::initializer_list<const char*> names) {
    Profile profile{.devices = {}, .measured_at = "2026-01-01T00:00:00Z", .conditions = "made up"};
    for (const char* name : names) {
      profile.devices.push_back({.name = name,
                                 .read_bytes_per_second = 1e9,
                                 .write_bytes_per_second = 1e9,
                                 .queue_bytes = 4 << 20});
    }
    ASSERT_TRUE(save_profile(folder_ + "/profile.json", profile));
    const std::string text = "[pool]\nstaging = \"8MiB\"\nbuffers = \"8MiB\"\nprofile = \"" + folder_ +
                             "/profile.json\"\n" + devices;
    kvpool_options options{};
    options.struct_size = sizeof options;
    options.config_toml = text.c_str();
    kvpool_error error{};
    ASSERT_EQ(kvpool_open(&options, &pool_, &error), KVPOOL_OK) << error.message;
    kvpool_geometry geometry{};
    geometry.struct_size = sizeof geometry;
    geometry.name = "blocks";
    geometry.block_tokens = 16;
    geometry.segments = segments;
    geometry.segment_bytes = segment_bytes.data();
    ASSERT_EQ(kvpool_namespace_open(pool_, &geometry, &ns_, &error), KVPOOL_OK) << error.message;
    kvpool_consumer_options consumer{};
    consumer.struct_size = sizeof consumer;
    consumer.region_bytes = 4 << 20;
    ASSERT_EQ(kvpool_consumer_open(pool_, &consumer, &consumer_, &error), KVPOOL_OK) << error.message;
    lay_out();
  }

  // Keys, addresses, what is left in place, then the places; every other place is at an odd address.
  void lay_out() {
    uint64_t bytes = 0;
    auto* base = static_cast<std::byte*>(kvpool_region(consumer_, &bytes));
    keys_ = reinterpret_cast<kvpool_key*>(base);
    addresses_ = reinterpret_cast<uint64_t*>(base + 4096);
    in_place_ = reinterpret_cast<const void**>(base + 6144);
    for (uint32_t i = 0; i < blocks * segments; ++i) {
      std::byte* place = base + 8192 + i * (place_bytes + 4096) + (i % 8 < 4 ? 0 : 12);
      addresses_[i] = kvpool_address(consumer_, place);
    }
    ASSERT_LE(8192 + blocks * segments * (place_bytes + 4096), bytes);
  }

  using Call = kvpool_status (*)(kvpool_consumer*, const kvpool_request*, kvpool_ticket*);

  void send(Call call, kvpool_request request) {
    request.struct_size = sizeof request;
    request.ns = ns_;
    kvpool_ticket ticket = 0;
    if (call(consumer_, &request, &ticket) != KVPOOL_OK) {
      ++failures_;
      return;
    }
    ++under_way_;
  }
  // Until all that was sent has ended; the last result.
  kvpool_completion finish() {
    kvpool_completion result{};
    while (under_way_ > 0) {
      kvpool_completion taken{};
      if (kvpool_poll(consumer_, &taken, 1) == 0) {
        kvpool_wait(consumer_, 100'000);
      } else if (taken.kind == KVPOOL_RESULT) {
        result = taken;
      } else {
        --under_way_;
      }
    }
    return result;
  }
  kvpool_completion run(Call call, kvpool_request request) {
    request.keys = keys_;
    request.buffers = addresses_;
    send(call, request);
    return finish();
  }
  // Each block by a request of its own, all at once.
  void retrieve_apart(kvpool_pin pin) {
    for (uint32_t block = 0; block < blocks; ++block) {
      kvpool_request request{};
      request.pin = pin;
      request.block_first = block;
      request.blocks = 1;
      request.buffers = addresses_ + block * segments;
      send(kvpool_retrieve, request);
    }
    if (finish().status != KVPOOL_OK) ++failures_;
  }

  // All there is to do with one chain; what fails is counted, not said: saying allocates.
  void work(uint64_t chain) {
    const auto expect = [this](bool good) { failures_ += good ? 0 : 1; };
    for (uint32_t block = 0; block < blocks; ++block) keys_[block] = {.high = 5, .low = chain * 100 + block};
    kvpool_request request{};
    request.blocks = blocks;
    expect(run(kvpool_store, request).status == KVPOOL_OK);
    expect(run(kvpool_retrieve, request).blocks == blocks);
    request.flags = KVPOOL_PIN;
    const kvpool_completion matched = run(kvpool_match, request);
    expect(matched.status == KVPOOL_OK);
    request.flags = 0;
    request.pin = matched.pin;
    expect(run(kvpool_estimate, request).blocks == blocks);
    retrieve_apart(matched.pin);
    if (chain % 4 == 0) run(kvpool_stage, request);  // without a memory device there is no room
    request.flags = KVPOOL_IN_PLACE;
    request.places = in_place_;
    expect(run(kvpool_retrieve, request).blocks == blocks);
    request.flags = KVPOOL_TAKE_PIN;
    expect(run(kvpool_retrieve, request).blocks == blocks);
    if (chain % 8 != 0) return;
    request = {};
    request.blocks = 1;
    expect(run(kvpool_delete, request).status == KVPOOL_OK);
  }

  // Works until the devices are full, so that whatever grows has grown, then counts.
  void expect_none() {
#if !KVPOOL_COUNTS_ALLOCATIONS
    GTEST_SKIP() << "a sanitizer has the allocating functions";
#endif
    for (uint64_t chain = 0; chain < chains; ++chain) work(chain);
    const uint64_t evicted = evicted_blocks();
    allocations = 0;
    counting = true;
    for (uint64_t chain = chains; chain < 4 * chains; ++chain) work(chain);
    counting = false;
    EXPECT_EQ(allocations, 0U);
    EXPECT_EQ(failures_, 0U);
    EXPECT_GT(evicted_blocks(), evicted);
  }
  [[nodiscard]] uint64_t evicted_blocks() const {
    kvpool_stats stats{};
    stats.struct_size = sizeof stats;
    EXPECT_EQ(kvpool_get_stats(pool_, &stats), KVPOOL_OK);
    return stats.evicted_blocks;
  }

  std::string folder_;
  kvpool_pool* pool_ = nullptr;
  kvpool_consumer* consumer_ = nullptr;
  uint32_t ns_ = 0;
  kvpool_key* keys_ = nullptr;
  uint64_t* addresses_ = nullptr;
  const void** in_place_ = nullptr;
  uint32_t under_way_ = 0;
  uint64_t failures_ = 0;
};

TEST_F(Allocation, TheCounterCounts) {
#if !KVPOOL_COUNTS_ALLOCATIONS
  GTEST_SKIP() << "a sanitizer has the allocating functions";
#endif
  allocations = 0;
  counting = true;
  ::operator delete(::operator new(100));
  free(calloc(3, 7));
  counting = false;
  EXPECT_EQ(allocations, 2U);
}

TEST_F(Allocation, NoneWithMemoryAndAFile) {
  open(
      "[[device]]\nkind = \"memory\"\nname = \"m\"\nsize = \"16MiB\"\n"
      "[[device]]\nkind = \"file\"\nname = \"f\"\nsize = \"32MiB\"\npath = \"" +
          folder_ + "/pool.kv\"\n",
      {"m", "f"});
  expect_none();
}

TEST_F(Allocation, NoneWithCaps) {
  open(
      "[[device]]\nkind = \"memory\"\nname = \"m\"\nsize = \"16MiB\"\nlimit_read = \"20GB/s\"\n"
      "[[device]]\nkind = \"file\"\nname = \"f\"\nsize = \"32MiB\"\nlimit_write = \"20GB/s\"\npath = \"" +
          folder_ + "/pool.kv\"\n",
      {"m", "f"});
  expect_none();
}

TEST_F(Allocation, NoneWithNullDevices) {
  open(
      "[[device]]\nkind = \"null\"\nname = \"a\"\nsize = \"16MiB\"\n"
      "[[device]]\nkind = \"null\"\nname = \"b\"\nsize = \"32MiB\"\n",
      {"a", "b"});
  expect_none();
}

}  // namespace
}  // namespace kvpool
