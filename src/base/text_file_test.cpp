#include "base/text_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

namespace kvpool {
namespace {

class TextFile : public testing::Test {
 protected:
  void SetUp() override {
    std::string made = testing::TempDir() + "kvpool_text_file_XXXXXX";
    ASSERT_NE(mkdtemp(made.data()), nullptr);
    folder_ = made;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path folder_;
};

TEST_F(TextFile, WhatIsWrittenIsReadAndReplacedWhole) {
  const std::string path = folder_ / "a";
  ASSERT_TRUE(replace_text_file(path, "one\0two" + std::string(5000, 'x')));
  ASSERT_TRUE(replace_text_file(path, "three"));
  EXPECT_EQ(*read_text_file(path), "three");
  // Nothing is left beside it.
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), 1);
}

TEST_F(TextFile, RefusesWhatIsNoSmallRegularFile) {
  EXPECT_EQ(read_text_file(folder_).error().message, folder_.string() + ": is not a regular file");
  EXPECT_EQ(read_text_file(folder_ / "none").error().message,
            (folder_ / "none").string() + ": cannot be opened: No such file or directory");
  const std::string path = folder_ / "large";
  ASSERT_TRUE(replace_text_file(path, std::string(text_file_bytes_max, 'x')));
  EXPECT_EQ(read_text_file(path)->size(), text_file_bytes_max);
  ASSERT_TRUE(replace_text_file(path, std::string(text_file_bytes_max + 1, 'x')));
  EXPECT_EQ(read_text_file(path).error().code, Errc::too_large);
}

TEST_F(TextFile, OnlyWhatIsOursMayBeReplaced) {
  const auto may = [this](const char* name) {
    return check_replaceable(
        folder_ / name, [](std::string_view text) { return text.starts_with("ours"); }, "a list");
  };
  ASSERT_TRUE(replace_text_file(folder_ / "ours", "ours " + std::string(100'000, 'x')));
  ASSERT_TRUE(replace_text_file(folder_ / "empty", ""));
  ASSERT_TRUE(replace_text_file(folder_ / "other", "other"));
  std::filesystem::create_directory(folder_ / "folder");
  std::filesystem::create_symlink(folder_ / "nowhere", folder_ / "dangling");
  std::filesystem::create_symlink(folder_ / "ours", folder_ / "link");
  EXPECT_TRUE(may("ours"));
  EXPECT_TRUE(may("empty"));
  EXPECT_TRUE(may("new"));
  EXPECT_EQ(may("other").error().message, (folder_ / "other").string() +
                                              ": holds something other than a list; name another file, or "
                                              "delete this one");
  EXPECT_EQ(may("folder").error().code, Errc::invalid_argument);
  EXPECT_FALSE(may("dangling"));
  EXPECT_FALSE(may("link"));
  EXPECT_FALSE(may("none/a"));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), 6);  // nothing new
}

TEST_F(TextFile, AFailedReplacementLeavesTheOldText) {
  // A folder in the way: the rename fails.
  const std::string path = folder_ / "folder";
  std::filesystem::create_directory(path);
  EXPECT_FALSE(replace_text_file(path, "text"));
  EXPECT_TRUE(std::filesystem::is_directory(path));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), 1);
  EXPECT_FALSE(replace_text_file(folder_ / "none" / "a", "text"));
}

}  // namespace
}  // namespace kvpool
