// kvpool stat on a pool's file in use, and no longer in use. The tool runs as another process: a process's
// own locks do not refuse it.

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "io/file/pool_file.h"

namespace kvpool {
namespace {

struct Outcome {
  int code = -1;
  std::string output;
};

Outcome run_stat(const std::string& arguments) {
  const std::string line = std::string(KVPOOL_TOOL) + " stat " + arguments + " 2>&1";
  Outcome outcome;
  FILE* pipe = popen(line.c_str(), "r");
  if (pipe == nullptr) return outcome;
  for (int c = std::fgetc(pipe); c != EOF; c = std::fgetc(pipe)) outcome.output += static_cast<char>(c);
  const int status = pclose(pipe);
  if (WIFEXITED(status)) outcome.code = WEXITSTATUS(status);
  return outcome;
}

class Stat : public testing::Test {
 protected:
  void SetUp() override {
    std::string made = testing::TempDir() + "kvpool_stat_XXXXXX";
    ASSERT_NE(mkdtemp(made.data()), nullptr);
    folder_ = made;
    path_ = made + "/pool.kv";
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string folder_;
  std::string path_;
};

TEST_F(Stat, TellsHeaderSizeAndOwner) {
  {
    const auto file = PoolFile::open(path_, 8 << 20);
    ASSERT_TRUE(file) << file.error().message;
    const Outcome outcome = run_stat(path_ + " --json");
    ASSERT_EQ(outcome.code, 0) << outcome.output;
    const auto json = nlohmann::json::parse(outcome.output, nullptr, false);
    ASSERT_TRUE(json.is_object()) << outcome.output;
    EXPECT_EQ(json["schema_version"], 1);
    EXPECT_EQ(json["file"], path_);
    EXPECT_EQ(json["size_bytes"], 8 << 20);
    EXPECT_EQ(json["uuid"], format_uuid(file->header().uuid));
    EXPECT_EQ(json["in_use"], true);
    EXPECT_EQ(json["owner_pid"], getpid());
    EXPECT_EQ(json["created_at"].get<std::string>().size(), 20U) << json["created_at"];
  }
  const Outcome outcome = run_stat(path_);
  EXPECT_EQ(outcome.code, 0);
  EXPECT_NE(outcome.output.find("8 MiB"), std::string::npos) << outcome.output;
  EXPECT_NE(outcome.output.find("last owner"), std::string::npos) << outcome.output;
}

TEST_F(Stat, WhatIsNoPoolIsBadInput) {
  EXPECT_EQ(run_stat(path_).code, 2);
  std::ofstream(path_) << std::string(10'000, 'x');
  const Outcome outcome = run_stat(path_);
  EXPECT_EQ(outcome.code, 2);
  EXPECT_EQ(outcome.output.substr(0, 8 + path_.size()), "kvpool: " + path_);
  EXPECT_EQ(run_stat(folder_).code, 2);
}

}  // namespace
}  // namespace kvpool
