#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "kvpool/kvpool.h"
#include "probe/profile_file.h"

namespace {

class ProbeApi : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "kvpool-probe-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    toml_ = "[pool]\nstaging = \"8MiB\"\nbuffers = \"8MiB\"\nprofile = \"" + profile() +
            "\"\n[[device]]\nkind = \"memory\"\nsize = \"8MiB\"\n[[device]]\nkind = \"file\"\nsize = "
            "\"16MiB\"\npath = \"" +
            folder_ + "/p.kv\"\nlimit_read = \"40MB/s\"\n";
    options_.config_toml = toml_.c_str();
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  [[nodiscard]] std::string profile() const { return folder_ + "/profile.json"; }
  kvpool_status probe() {
    return kvpool_probe(&options_, &asked_, json_.data(), capacity_, &needed_, &error_);
  }

  // A profile in which each device gives 400 MB/s beside the others.
  void save(const std::vector<std::string>& names = {"memory0", "file0"}) {
    kvpool::Profile stored;
    for (const std::string& name : names) {
      stored.devices.push_back({.name = name,
                                .read_bytes_per_second = 1e9,
                                .together_bytes_per_second = 4e8,
                                .queue_bytes = 1 << 20,
                                .storage = name.starts_with("file")});
    }
    ASSERT_TRUE(kvpool::save_profile(profile(), stored));
  }
  double share_of_file(uint32_t number = 1) {
    kvpool_pool* pool = nullptr;
    EXPECT_EQ(kvpool_open(&options_, &pool, &error_), KVPOOL_OK) << error_.message;
    kvpool_device_stats stats{.struct_size = sizeof(kvpool_device_stats)};
    EXPECT_EQ(kvpool_get_device_stats(pool, number, &stats), KVPOOL_OK);
    EXPECT_EQ(kvpool_close(pool, 1'000'000, &error_), KVPOOL_OK);
    return stats.planned_share;
  }

  std::string folder_;
  std::string toml_;
  kvpool_options options_{
      .struct_size = sizeof(kvpool_options), .config_path = nullptr, .config_toml = nullptr};
  kvpool_probe_options asked_{.struct_size = sizeof(kvpool_probe_options),
                              .per_device_us = 60'000,
                              .together_us = 30'000,
                              .sweep = 0,
                              .save = 0};
  std::array<char, 1 << 18> json_{};
  size_t capacity_ = json_.size();
  size_t needed_ = 0;
  kvpool_error error_{};
};

TEST_F(ProbeApi, MeasuresAndSaves) {
  asked_.save = 1;
  asked_.sweep = 1;
  ASSERT_EQ(probe(), KVPOOL_OK) << error_.message;
  EXPECT_EQ(needed_, std::strlen(json_.data()) + 1);
  const auto result = nlohmann::json::parse(json_.data());
  EXPECT_EQ(result["profile"], profile());
  ASSERT_EQ(result["devices"].size(), 2U);
  EXPECT_EQ(result["devices"][0]["name"], "memory0");
  EXPECT_FALSE(result["devices"][1]["points"].empty());
  EXPECT_LE(result["devices"][1]["read_bytes_per_second"].get<double>(), 40e6);
  const auto saved = kvpool::load_profile(profile());
  ASSERT_TRUE(saved) << saved.error().message;
  EXPECT_EQ(saved->devices[1].read_bytes_per_second,
            result["devices"][1]["read_bytes_per_second"].get<double>());
  EXPECT_NE(saved->conditions.find("huge pages"), std::string::npos);
}

TEST_F(ProbeApi, SavesOnlyWhenAsked) {
  ASSERT_EQ(probe(), KVPOOL_OK) << error_.message;
  EXPECT_TRUE(nlohmann::json::parse(json_.data())["profile"].is_null());
  EXPECT_FALSE(std::filesystem::exists(profile()));
}

TEST_F(ProbeApi, RefusesDevicesOfAnOpenPool) {
  kvpool_pool* pool = nullptr;
  ASSERT_EQ(kvpool_open(&options_, &pool, &error_), KVPOOL_OK) << error_.message;
  EXPECT_EQ(probe(), KVPOOL_IN_USE);
  EXPECT_NE(std::string(error_.message).find("p.kv"), std::string::npos) << error_.message;
  EXPECT_EQ(kvpool_close(pool, 1'000'000, &error_), KVPOOL_OK);
}

TEST_F(ProbeApi, ACapIsAllThatADeviceAddsToTheOthers) {
  save();
  EXPECT_NEAR(share_of_file(), 4e7 / (4e8 + 4e7), 0.01);
}

// Memory is not copied then, and gives what the link takes.
TEST_F(ProbeApi, ALinkIsWhatMemoryGivesInPlace) {
  save();
  toml_.insert(sizeof "[pool]", "link = \"200MB/s\"\n");
  options_.config_toml = toml_.c_str();
  EXPECT_NEAR(share_of_file(), 2.0 / 3 * 4e7 / 2e8, 0.01) << "memory alone fills the link";
  toml_ += "[[device]]\nkind = \"memory\"\nname = \"memory0\"\nsize = \"8MiB\"\nlimit_read = \"60MB/s\"\n";
  toml_.erase(toml_.find("[[device]]\nkind = \"memory\"\nsize"),
              sizeof "[[device]]\nkind = \"memory\"\nsize = \"8MiB\"");
  options_.config_toml = toml_.c_str();
  std::filesystem::remove(profile());
  save({"file0", "memory0"});
  EXPECT_NEAR(share_of_file(0), 4e7 / (6e7 + 4e7), 0.01) << "what is capped gives no more";
}

TEST_F(ProbeApi, SaysHowMuchRoomTheResultNeeds) {
  capacity_ = 10;
  EXPECT_EQ(probe(), KVPOOL_TOO_LARGE);
  EXPECT_GT(needed_, 10U);
  EXPECT_STREQ(json_.data(), "");
}

TEST_F(ProbeApi, RefusesWhatCannotBe) {
  asked_.sweep = 2;
  EXPECT_EQ(probe(), KVPOOL_INVALID_ARGUMENT);
  asked_.sweep = 0;
  asked_.per_device_us = 1ULL << 40;
  EXPECT_EQ(probe(), KVPOOL_INVALID_ARGUMENT);
  asked_.per_device_us = 1000;
  asked_.struct_size = 1;
  EXPECT_EQ(probe(), KVPOOL_INVALID_ARGUMENT);
  asked_.struct_size = sizeof asked_;
  options_.config_path = "both";
  EXPECT_EQ(probe(), KVPOOL_INVALID_ARGUMENT);
  options_.config_path = nullptr;
  EXPECT_FALSE(std::filesystem::exists(folder_ + "/p.kv"));
  // A text that names no profile has nowhere to save it.
  const std::string bare = "[[device]]\nkind = \"null\"\nsize = \"1MiB\"\n";
  options_.config_toml = bare.c_str();
  asked_.save = 1;
  EXPECT_EQ(probe(), KVPOOL_INVALID_ARGUMENT);
}

}  // namespace
