#include "bench/longdoc.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <set>
#include <sstream>
#include <string>

#include "base/units.h"
#include "bench/payload.h"
#include "bench/pooled_system.h"
#include "bench/system_time.h"
#include "bench/testing/fake_pool.h"
#include "bench/testing/test_machine.h"

namespace kvpool::bench {
namespace {

TEST(Documents, KeysDifferAndWindowsAreDeliveredOnce) {
  const Documents documents(*preset_geometry("gpt-oss-20b"), 1000, 2, 1);
  EXPECT_EQ(documents.blocks(), 4U);
  std::set<BlockKey> keys;
  for (uint32_t d = 0; d < 2; ++d) {
    for (uint32_t b = 0; b < 4; ++b) keys.insert(documents.key(d, b));
  }
  EXPECT_EQ(keys.size(), 8U);
  EXPECT_EQ(documents.delivered_bytes(), documents.geometry().run_bytes(4));
  EXPECT_LT(documents.delivered_bytes(), documents.stored_bytes());
}

TEST(Documents, EveryDocumentIsAskedOnceBeforeAnyIsAskedAgain) {
  const auto order = question_order(5, 10, 3);
  EXPECT_EQ(std::set<uint32_t>(order.begin(), order.begin() + 5).size(), 5U);
  EXPECT_EQ(std::set<uint32_t>(order.begin() + 5, order.end()).size(), 5U);
  EXPECT_EQ(order, question_order(5, 10, 3));
  EXPECT_NE(order, question_order(5, 10, 4));
}

TEST(Checker, CountsWrongAndMissingBlocksOnce) {
  const Documents documents(
      Geometry{.name = "g", .block_tokens = 1, .segment_bytes = {4096, 4096}, .window = {}}, 3, 1, 1);
  std::vector<std::byte> data(4096);
  Checker checker(documents, 1, Check::every_byte);
  for (uint32_t b = 0; b < 3; ++b) {
    for (uint32_t s = 0; s < 2; ++s) {
      if (b == 2 && s == 1) continue;  // never arrives
      fill_payload(data, documents.key(0, b), s);
      if (b == 1) data[4000] ^= std::byte{1};
      checker.look(0, 0, b, s, data);
    }
  }
  EXPECT_EQ(checker.wrong_blocks(), 2U);
}

// Every delivered segment is in exactly one unit, and no unit is larger than allowed.
void expect_covered(const Documents& documents, uint64_t unit_bytes_max) {
  std::vector<uint32_t> seen(size_t{documents.blocks()} * documents.geometry().segments());
  for (const LayerUnit& unit : layer_units(documents, unit_bytes_max)) {
    uint64_t bytes = 0;
    for (uint32_t b = unit.block_first; b < unit.block_first + unit.blocks; ++b) {
      for (uint32_t s = unit.segment_first; s < unit.segment_first + unit.segment_count; ++s) {
        ++seen[size_t{b} * documents.geometry().segments() + s];
        if (documents.is_delivered(b, s)) bytes += documents.geometry().segment_bytes[s];
      }
    }
    EXPECT_LE(bytes, unit_bytes_max);
    EXPECT_GT(bytes, 0U);
  }
  for (const uint32_t times : seen) EXPECT_EQ(times, 1U);
}

TEST(LayerUnits, CoverADocumentOnce) {
  for (const std::string& model : preset_names()) {
    for (const uint64_t tokens : {256U, 1024U, 16384U}) {
      const Documents documents(*preset_geometry(model), tokens, 1, 1);
      for (const uint64_t bytes : {mib, 4 * mib, 32 * mib, 256 * mib}) expect_covered(documents, bytes);
    }
  }
}

TEST(LayerUnits, KeepLayerOrder) {
  const Documents documents(*preset_geometry("llama-3.1-8b"), 16384, 1, 1);
  const auto whole = layer_units(documents, 64 * mib);
  EXPECT_EQ(whole.size(), 32U);
  const auto halves = layer_units(documents, 32 * mib);
  ASSERT_EQ(halves.size(), 64U);
  EXPECT_EQ(halves[1].segment_first, 0U);
  EXPECT_EQ(halves[1].block_first, 32U);
}

class LongdocTest : public testing::Test {
 protected:
  void SetUp() override {
    fake_pool() = FakePool{};
    options_.config.devices = {memory_config(4 * mib), file_config(6 * mib, folder_.path("pool"))};
    options_.models = {Geometry{.name = "small",
                                .block_tokens = 256,
                                .segment_bytes = std::vector<uint32_t>(32, 64 << 10),
                                .window = {}}};
    options_.tokens = {512};
    options_.documents = 2;
    options_.repeat = 2;
    options_.limit_duration = std::chrono::milliseconds(5);
  }
  [[nodiscard]] Result<std::vector<LongdocRow>> run() {
    return run_longdoc(machine_, options_, counter_, [](const std::string&, double) {});
  }

  TestFolder folder_;
  TestMachine machine_;
  LongdocOptions options_;
  SystemCallCounter counter_;
};

TEST_F(LongdocTest, CleansUpWhereItIsStopped) {
  for (const int steps : {0, 1, 2, 3, 7, 11}) {
    int asked = 0;
    options_.stopped = [&asked, steps] { return asked++ == steps; };
    const auto rows = run();
    ASSERT_FALSE(rows);
    EXPECT_EQ(rows.error().code, Errc::cancelled);
    EXPECT_TRUE(std::filesystem::is_empty(folder_.path("."))) << steps;
  }
}

TEST_F(LongdocTest, RunsEverySystemAndCleansUp) {
  options_.concurrency = {1, 3};
  const auto rows = run();
  ASSERT_TRUE(rows) << rows.error().message;
  ASSERT_EQ(rows->size(), 10U);
  EXPECT_EQ(machine_.pools_opened, 3U);
  EXPECT_EQ(fake_pool().pins_held, 0U);
  for (const LongdocRow& row : *rows) {
    EXPECT_EQ(row.wrong_blocks, 0U) << row.system;
    EXPECT_GT(row.gbps, 0) << row.system;
    EXPECT_GT(row.limit_gbps, 0) << row.system;
    EXPECT_LE(row.seconds_min, row.seconds_p50);
    EXPECT_LE(row.seconds_p50, row.seconds_max);
    EXPECT_NEAR(row.ttft_s - row.seconds_p50, 0.034, 1e-9);
    EXPECT_GT(row.busy_bin_s, 0) << row.system;
    for (const LongdocDevice& device : row.devices) {
      EXPECT_FALSE(device.planned_share) << row.system;
      EXPECT_EQ(device.busy_over_time.size(), 60U);
      const auto& bins = device.busy_over_time;
      const double busiest = *std::max_element(bins.begin(), bins.end());
      EXPECT_LE(busiest, 1);
      EXPECT_EQ(busiest > 0, device.bytes > 0) << row.system << ' ' << device.name;
    }
  }
  machine_.pool_storage.clear();
  EXPECT_FALSE(std::filesystem::exists(folder_.path("pool.files")));
  EXPECT_FALSE(std::filesystem::exists(folder_.path("pool.limit")));
}

TEST_F(LongdocTest, TakesNoBlockDevices) {
  for (const auto& entry : std::filesystem::directory_iterator("/dev")) {
    if (!entry.is_block_file()) continue;
    options_.config.devices[1].path = entry.path();
    const auto rows = run();
    ASSERT_FALSE(rows);
    EXPECT_EQ(rows.error().code, Errc::unsupported);
    EXPECT_NE(rows.error().message.find("only a file on a file system"), std::string::npos)
        << rows.error().message;
    EXPECT_EQ(machine_.pools_opened, 0U);
    return;
  }
  GTEST_SKIP() << "there is no block device here";
}

TEST_F(LongdocTest, SetsThePlacementOfEachSystem) {
  options_.systems = {"striped-direct"};
  ASSERT_TRUE(run());
  EXPECT_EQ(machine_.last_pool.placement, PlacementRule::equal);
  options_.systems = {"pooled-direct"};
  ASSERT_TRUE(run());
  EXPECT_EQ(machine_.last_pool.placement, PlacementRule::bandwidth);
  EXPECT_TRUE(machine_.pool_storage.empty());
  options_.systems = {"pooled-files"};
  ASSERT_TRUE(run());
  EXPECT_EQ(machine_.pool_storage.size(), 1U);
}

std::vector<std::string> systems_of(const std::vector<LongdocRow>& rows) {
  std::vector<std::string> systems;
  for (const LongdocRow& row : rows) systems.push_back(row.system);
  return systems;
}

DeviceConfig nvme_config(uint64_t size_bytes) {
  DeviceConfig device = file_config(size_bytes, "/dev/ng0n1");
  device.name = "nvme0";
  device.kind = DeviceKind::nvme;
  return device;
}

TEST_F(LongdocTest, TheAblationIsWholeWithDevicesOfBothSorts) {
  options_.config.devices.push_back(nvme_config(6 * mib));
  options_.profile = Profile{};
  for (const DeviceConfig& device : options_.config.devices)
    options_.profile->devices.push_back({.name = device.name, .read_bytes_per_second = 1e9});
  const auto rows = run();
  ASSERT_TRUE(rows) << rows.error().message;
  EXPECT_EQ(systems_of(*rows),
            (std::vector<std::string>{"tiered-files", "pooled-files", "tiered-direct", "striped-direct",
                                      "pooled-direct", "tiered-passthrough", "pooled-passthrough"}));
  EXPECT_TRUE(systems_left_out(options_).empty());
  for (const LongdocRow& row : *rows) {
    EXPECT_EQ(row.wrong_blocks, 0U) << row.system;
    EXPECT_GT(row.limit_gbps, 0) << row.system;
    for (const LongdocDevice& device : row.devices) {
      EXPECT_EQ(device.name == "nvme0", row.system.ends_with("passthrough") && device.name != "memory0")
          << row.system << ' ' << device.name;
    }
  }
  EXPECT_EQ(machine_.last_pool.devices.back().name, "nvme0");
  EXPECT_EQ(machine_.last_pool.devices.size(), 2U);
}

// The drive is locked by whoever has it: not two of the run's own may have it at once.
TEST_F(LongdocTest, OpensAPassthroughDeviceOnceAtATime) {
  options_.config.devices = {memory_config(4 * mib), nvme_config(6 * mib)};
  const auto rows = run();
  ASSERT_TRUE(rows) << rows.error().message;
  EXPECT_EQ(systems_of(*rows), (std::vector<std::string>{"tiered-passthrough", "pooled-passthrough"}));
  const auto left_out = systems_left_out(options_);
  ASSERT_EQ(left_out.size(), 5U);
  EXPECT_NE(left_out[0].because.find("want one of kind file"), std::string::npos);
}

TEST_F(LongdocTest, SaysWhichSystemsWereLeftOut) {
  const auto left_out = systems_left_out(options_);
  ASSERT_EQ(left_out.size(), 2U);
  EXPECT_EQ(left_out[0].system, "tiered-passthrough");
  EXPECT_NE(left_out[0].because.find("no device of the configuration"), std::string::npos);
  options_.systems = {"tiered-files"};
  EXPECT_TRUE(systems_left_out(options_).empty());
}

// Before anything is measured or stored.
TEST_F(LongdocTest, RefusesAPoolInUseAtOnce) {
  machine_.in_use = options_.config.devices[1].path;
  options_.systems = {"tiered-files", "pooled-direct"};
  std::vector<std::string> phrases;
  const auto refused = run_longdoc(machine_, options_, {},
                                   [&](const std::string& phrase, double) { phrases.push_back(phrase); });
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Errc::in_use);
  EXPECT_TRUE(phrases.empty());
  options_.systems = {"tiered-files"};
  EXPECT_TRUE(run());
}

// Fewer buffers than there would be: each holds a segment.
TEST_F(LongdocTest, TakesSegmentsOfMoreThanABuffersShare) {
  options_.config.devices = {memory_config(16 * mib), file_config(32 * mib, folder_.path("pool"))};
  options_.models = {
      Geometry{.name = "large", .block_tokens = 128, .segment_bytes = {4 * mib}, .window = {}}};
  options_.concurrency = {16};
  options_.repeat = 1;
  const auto rows = run();
  ASSERT_TRUE(rows) << rows.error().message;
  for (const LongdocRow& row : *rows) EXPECT_EQ(row.wrong_blocks, 0U) << row.system;
}

TEST_F(LongdocTest, AddsUpTheSystemCallsOfARepeat) {
  options_.systems = {"tiered-files", "tiered-direct"};
  options_.repeat = 3;
  uint32_t begun = 0;
  counter_.start = [&] { ++begun; };
  counter_.stop = [&] {
    ThreadCalls self{.thread = this_thread(), .name = "self"};
    self.kinds[static_cast<size_t>(CallKind::io)] = {7, std::chrono::milliseconds(10)};
    self.kinds[static_cast<size_t>(CallKind::wait)] = {2, std::chrono::milliseconds(100)};
    return std::vector{self};
  };
  const auto rows = run();
  ASSERT_TRUE(rows) << rows.error().message;
  EXPECT_EQ(begun, 6U);  // what is stored and compared is not counted
  const LongdocCalls& files = *(*rows)[0].calls;
  EXPECT_DOUBLE_EQ(files.blocked_s, 0.01);
  EXPECT_EQ(files.io_calls, 7U);
  EXPECT_EQ(files.other_calls, 2U);
  const LongdocCalls& direct = *(*rows)[1].calls;
  EXPECT_DOUBLE_EQ(direct.blocked_s, 0.11);
  EXPECT_EQ(direct.io_calls, 9U);
  ASSERT_EQ(direct.threads.size(), 1U);
  EXPECT_GT((*rows)[1].device_s, 0);
  EXPECT_FALSE((*rows)[1].device_s_by_kernel);
}

TEST_F(LongdocTest, ReportsWrongBlocks) {
  options_.systems = {"pooled-direct"};
  fake_pool().wrong_block_every = 7;
  const auto rows = run();
  ASSERT_TRUE(rows) << rows.error().message;
  EXPECT_GT(rows->front().wrong_blocks, 0U);
}

TEST_F(LongdocTest, ARetrieveThatBringsLessCountsAsWrong) {
  options_.systems = {"pooled-direct"};
  fake_pool().short_retrieve_every = 3;
  const auto rows = run();
  ASSERT_TRUE(rows) << rows.error().message;
  EXPECT_GT(rows->front().wrong_blocks, 0U);
  EXPECT_EQ(fake_pool().pins_held, 0U);
}

TEST_F(LongdocTest, APoolThatIsTooSmallIsAnError) {
  options_.systems = {"pooled-direct"};
  fake_pool().blocks_max = 3;
  EXPECT_EQ(run().error().code, Errc::too_large);
}

TEST_F(LongdocTest, ValidatesBeforeItTouchesAnything) {
  const auto expect_refused = [&](auto change) {
    LongdocOptions changed = options_;
    change(changed);
    const auto refused = run_longdoc(machine_, changed, {}, [](const std::string&, double) {});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, Errc::invalid_argument);
  };
  expect_refused([](auto& o) { o.systems = {"raid"}; });
  expect_refused([](auto& o) { o.systems = {"pooled-passthrough"}; });  // there is no such device
  expect_refused([](auto& o) { o.tokens = {0}; });
  expect_refused([](auto& o) { o.tokens = {129 * 1024}; });
  expect_refused([](auto& o) { o.concurrency = {17}; });
  expect_refused([](auto& o) { o.repeat = 0; });
  expect_refused([](auto& o) { o.documents = 0; });
  expect_refused([](auto& o) { o.config.devices.clear(); });
  EXPECT_EQ(machine_.pools_opened, 0U);
}

std::set<std::string> keys_of(const nlohmann::ordered_json& object) {
  std::set<std::string> keys;
  for (const auto& [key, value] : object.items()) keys.insert(key);
  return keys;
}

TEST(LongdocReport, HasTheKeysOfTheSchemaAndNoOthers) {
  LongdocRow row;
  row.system = "pooled-direct";
  row.busy_bin_s = 0.0123;
  row.devices.push_back({.name = "memory0",
                         .bytes = 12,
                         .share = 0.5,
                         .planned_share = 0.625,
                         .busy_fraction = 0.25,
                         .busy_over_time = {0.1239, 1}});
  row.devices.push_back({.name = "file0"});
  const auto json = longdoc_json({row}, {{"pooled-passthrough", "no device"}});
  EXPECT_EQ(keys_of(json), (std::set<std::string>{"prefill_source", "systems", "left_out"}));
  EXPECT_EQ(keys_of(json["left_out"][0]), (std::set<std::string>{"system", "because"}));
  EXPECT_EQ(keys_of(json["systems"][0]),
            (std::set<std::string>{"system",        "model",         "tokens",       "concurrency",
                                   "seconds_min",   "seconds_p50",   "seconds_max",  "gbps",
                                   "limit_gbps",    "store_gbps",    "ttft_s",       "fraction_of_limit",
                                   "cpu_user_s",    "cpu_system_s",  "blocked_s",    "idle_s",
                                   "io_calls",      "other_calls",   "threads",      "device_s",
                                   "device_s_from", "spilled_bytes", "wrong_blocks", "busy_bin_s",
                                   "devices"}));
  EXPECT_EQ(json["systems"][0]["busy_bin_s"], 0.0123);
  const auto& devices = json["systems"][0]["devices"];
  EXPECT_EQ(keys_of(devices[0]),
            (std::set<std::string>{"name", "bytes", "share", "planned_share", "busy_fraction", "limit_gbps",
                                   "requests_s", "busy_over_time"}));
  EXPECT_EQ(devices[0]["planned_share"], 0.625);
  EXPECT_EQ(devices[0]["busy_over_time"], (std::vector<double>{0.124, 1}));
  EXPECT_TRUE(devices[1]["planned_share"].is_null());
  EXPECT_TRUE(devices[1]["busy_over_time"].is_array());
}

TEST(LongdocReport, ATableHasWhatAPersonMustNotMiss) {
  LongdocRow row;
  row.system = "pooled-direct";
  row.model = "llama-3.1-8b";
  row.tokens = 16384;
  row.concurrency = 3;
  row.seconds_p50 = 0.125;
  row.seconds_max = 0.75;
  row.fraction_of_limit = 0.5;
  LongdocRow bad = row;
  bad.system = "tiered-files";
  bad.spilled_bytes = 1'500'000'000;
  bad.wrong_blocks = 7;
  bad.calls.emplace().blocked_s = 0.0625;
  std::istringstream table(longdoc_table({row, bad}, {{"pooled-passthrough", "no device"}}));
  std::array<std::string, 4> lines;
  for (std::string& line : lines) std::getline(table, line);
  const auto says = [](const std::string& text, const char* what) {
    return text.find(what) != std::string::npos;
  };
  EXPECT_EQ(lines[0], "llama-3.1-8b, 16384 tokens");
  EXPECT_TRUE(says(lines[2], "pooled-direct       3    0.125     0.750")) << lines[2];
  EXPECT_TRUE(says(lines[2], " 50%")) << lines[2];
  EXPECT_FALSE(says(lines[2], "elsewhere") || says(lines[2], "WRONG")) << lines[2];
  EXPECT_TRUE(says(lines[3], " 0.062 ")) << lines[3];
  EXPECT_TRUE(says(lines[3], "; 1.50 GB lie elsewhere than planned")) << lines[3];
  EXPECT_TRUE(says(lines[3], "WRONG BLOCKS: 7")) << lines[3];
  EXPECT_TRUE(says(table.str(), "left out: pooled-passthrough: no device\n")) << table.str();
}

TEST(LongdocReport, PrefillIsTheMeasuredFloor) {
  EXPECT_DOUBLE_EQ(question_prefill_s(1024), 0.034);
  EXPECT_DOUBLE_EQ(question_prefill_s(65536), 0.058);
  EXPECT_NEAR(question_prefill_s(49152), (0.035 + 0.058) / 2, 1e-12);
  EXPECT_DOUBLE_EQ(question_prefill_s(200000), 0.073);
}

}  // namespace
}  // namespace kvpool::bench
