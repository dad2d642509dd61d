#include "bench/tiered_system.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/units.h"
#include "bench/system_calls.h"
#include "bench/system_time.h"
#include "bench/testing/test_machine.h"

namespace kvpool::bench {
namespace {

// Four layers, the second a window, sizes that are no multiples of a page.
Geometry small_geometry() {
  return {.name = "small",
          .block_tokens = 16,
          .segment_bytes = {300'000, 5'000, 300'000, 300'000},
          .window = {false, true, false, false}};
}

Config small_config(const TestFolder& folder, uint64_t memory_bytes, uint64_t file_bytes) {
  Config config;
  config.devices = {memory_config(memory_bytes), file_config(file_bytes, folder.path("pool"))};
  config.buffer_bytes = 8 * mib;
  return config;
}

TEST(BlockParts, JoinsNeighboursAndLeavesWindowsOut) {
  const Geometry geometry = small_geometry();
  const uint64_t big = round_up(300'000, 4096);
  const auto all = block_parts(geometry, true, 1ULL << 30);
  ASSERT_EQ(all.size(), 1U);
  EXPECT_EQ(all[0].bytes, 3 * big + 8192);
  const auto needed = block_parts(geometry, false, 1ULL << 30);
  ASSERT_EQ(needed.size(), 2U);
  EXPECT_EQ(needed[0].offset, 0U);
  EXPECT_EQ(needed[0].bytes, big);
  EXPECT_EQ(needed[1].offset, big + 8192);
  EXPECT_EQ(needed[1].bytes, 2 * big);
  uint64_t next = big + 8192;
  const auto cut = block_parts(geometry, false, 65536);
  for (size_t i = 5; i < cut.size(); ++i) {
    EXPECT_LE(cut[i].bytes, 65536U);
    EXPECT_EQ(cut[i].offset, next);
    next += cut[i].bytes;
  }
  EXPECT_EQ(next, 3 * big + 8192);
}

class TieredSystemTest : public testing::TestWithParam<StoragePath> {
 protected:
  TestFolder folder_;
  TestMachine machine_;
  Documents documents_{small_geometry(), 64, 3, 7};  // 3 documents of 4 blocks of 0.9 MB
};

TEST_P(TieredSystemTest, BringsEveryByteBackFromBothTiers) {
  auto system =
      TieredSystem::open(machine_, small_config(folder_, 5 * mib, 16 * mib), documents_, GetParam());
  ASSERT_TRUE(system) << system.error().message;
  ASSERT_TRUE((*system)->store());
  ASSERT_TRUE((*system)->make_cold(false));
  const auto before = (*system)->use();
  const auto order = question_order(3, 3, 1);
  for (const uint32_t concurrency : {1U, 3U}) {
    const auto asked = (*system)->ask(order, concurrency, Check::every_byte);
    ASSERT_TRUE(asked) << asked.error().message;
    EXPECT_EQ(asked->wrong_blocks, 0U);
    EXPECT_EQ(asked->bytes, 3 * documents_.delivered_bytes());
    for (const Nanos latency : asked->latencies) EXPECT_GT(latency.count(), 0);
  }
  const auto after = (*system)->use();
  ASSERT_EQ(after.devices.size(), 2U);
  EXPECT_TRUE(after.devices[0].in_place);
  // Five blocks of twelve fit the memory; what was read is whole pages, windows left out but in last blocks.
  const uint64_t big = round_up(300'000, 4096);
  const uint64_t read = 2 * (12 * 3 * big + 3 * 8192);
  EXPECT_EQ(after.devices[0].read_bytes + after.devices[1].read_bytes - before.devices[0].read_bytes -
                before.devices[1].read_bytes,
            read);
  EXPECT_EQ(after.devices[0].read_bytes - before.devices[0].read_bytes, 2 * (5 * 3 * big + 8192));
  // It drives the direct devices itself; over files workers do.
  const std::vector<pid_t> drivers = (*system)->meters().storage_drivers();
  if (GetParam() == StoragePath::files) {
    EXPECT_TRUE(drivers.empty());
    return;
  }
  EXPECT_EQ(drivers, std::vector<pid_t>{this_thread()});
  EXPECT_GT(*after.storage_busy, *before.storage_busy);
  EXPECT_EQ(after.devices[1].busy, *after.storage_busy);
  EXPECT_GE(after.devices[1].under_way, after.devices[1].busy);
  EXPECT_EQ(storage_requests_under_way, 0U);
}

TEST_P(TieredSystemTest, ACapHoldsItsStorageBack) {
  Config config = small_config(folder_, mib, 16 * mib);  // one block in memory, eleven in the storage device
  config.devices[1].limit_read_bytes_per_second = 50'000'000;
  auto system = TieredSystem::open(machine_, config, documents_, GetParam());
  ASSERT_TRUE(system) << system.error().message;
  ASSERT_TRUE((*system)->store());
  const auto asked = (*system)->ask(question_order(3, 3, 1), 1, Check::every_byte);
  ASSERT_TRUE(asked) << asked.error().message;
  EXPECT_EQ(asked->wrong_blocks, 0U);
  // 9.9 MB at 50 MB/s, but for what the bucket holds and the debt of the last request.
  EXPECT_GT(std::chrono::duration<double>(asked->wall).count(), 0.16);
}

TEST_P(TieredSystemTest, ReadsOneTierAfterTheOther) {
  // One document, half of it in each tier, either of which alone takes 0.27 s.
  const Documents document{small_geometry(), 12 * 16, 1, 7};
  Config config = small_config(folder_, 6 * mib, 16 * mib);
  for (DeviceConfig& device : config.devices) device.limit_read_bytes_per_second = 20'000'000;
  auto system = TieredSystem::open(machine_, config, document, GetParam());
  ASSERT_TRUE(system) << system.error().message;
  ASSERT_TRUE((*system)->store());
  for (MeterDevice* meter : (*system)->meters().devices) meter->start_record(SteadyClock().now());
  const auto asked = (*system)->ask(question_order(1, 1, 1), 1, Check::stamps);
  ASSERT_TRUE(asked) << asked.error().message;
  const auto use = (*system)->use();
  EXPECT_EQ(use.devices[0].read_bytes, use.devices[1].read_bytes - 8192);  // the last block's window
  EXPECT_GT(std::chrono::duration<double>(asked->wall).count(), 0.4);
  // Memory is busy from the start, storage to the end, and they change over in one bin.
  std::vector<std::vector<double>> busy;
  for (const MeterDevice* meter : (*system)->meters().devices) {
    busy.push_back(fractions_of(meter->record(), asked->begin, asked->wall, 20));
  }
  const auto first = std::find_if(busy[1].begin(), busy[1].end(), [](double f) { return f > 0; });
  const ptrdiff_t change = first - busy[1].begin();
  EXPECT_GT(change, 3);
  EXPECT_LT(change, 17);
  for (ptrdiff_t bin = 0; bin < 20; ++bin) {
    const double memory = busy[0][static_cast<size_t>(bin)];
    const double storage = busy[1][static_cast<size_t>(bin)];
    if (bin < change - 1) {
      EXPECT_GT(memory, 0.9) << bin;
    } else if (bin > change) {
      EXPECT_EQ(memory, 0) << bin;
      EXPECT_GT(storage, 0.9) << bin;
    }
  }
}

TEST_P(TieredSystemTest, RefusesDocumentsThatDoNotFit) {
  const auto system =
      TieredSystem::open(machine_, small_config(folder_, 5 * mib, 6 * mib), documents_, GetParam());
  ASSERT_FALSE(system);
  EXPECT_EQ(system.error().code, Errc::too_large);
}

INSTANTIATE_TEST_SUITE_P(FilesAndDirect, TieredSystemTest,
                         testing::Values(StoragePath::direct, StoragePath::files));

TEST_F(TieredSystemTest, SeesAFlippedBit) {
  machine_.corrupt_every = 5;
  auto system =
      TieredSystem::open(machine_, small_config(folder_, 5 * mib, 16 * mib), documents_, StoragePath::direct);
  ASSERT_TRUE(system);
  ASSERT_TRUE((*system)->store());
  const auto asked = (*system)->ask(question_order(3, 3, 1), 1, Check::every_byte);
  ASSERT_TRUE(asked);
  EXPECT_GT(asked->wrong_blocks, 0U);
}

TEST_F(TieredSystemTest, AShortRequestIsNoSuccess) {
  machine_.short_every = 20;
  auto system =
      TieredSystem::open(machine_, small_config(folder_, 5 * mib, 16 * mib), documents_, StoragePath::direct);
  ASSERT_TRUE(system);
  ASSERT_TRUE((*system)->store());
  EXPECT_EQ((*system)->ask(question_order(3, 12, 1), 2, Check::stamps).error().code, Errc::short_io);
}

TEST_F(TieredSystemTest, AFailedRequestEndsTheRunAndHoldsNoBuffer) {
  machine_.fail_every = 20;
  auto system =
      TieredSystem::open(machine_, small_config(folder_, 5 * mib, 16 * mib), documents_, StoragePath::direct);
  ASSERT_TRUE(system);
  ASSERT_TRUE((*system)->store());
  const auto asked = (*system)->ask(question_order(3, 12, 1), 2, Check::stamps);
  ASSERT_FALSE(asked);
  EXPECT_EQ(asked.error().code, Errc::io_error);
  EXPECT_NE(asked.error().message.find("file0"), std::string::npos);
}

}  // namespace
}  // namespace kvpool::bench
