#include "layout/geometry.h"

#include <gtest/gtest.h>

namespace kvpool {
namespace {

TEST(Geometry, PresetsHaveTheModelsBytesPerToken) {
  const auto bytes_per_token = [](std::string_view model) {
    const auto geometry = preset_geometry(model);
    return geometry->block_bytes() / geometry->block_tokens;
  };
  EXPECT_EQ(bytes_per_token("llama-3.1-8b"), 131072);
  EXPECT_EQ(bytes_per_token("qwen3-30b-a3b"), 98304);
  EXPECT_EQ(bytes_per_token("gpt-oss-20b"), 24576 + 12288);  // windows hold half of each block's tokens
  EXPECT_EQ(preset_geometry("llama-3.1-8b")->segment_bytes[0], 1U << 20);
}

TEST(Geometry, WindowsCountInTheLastBlockAlone) {
  const auto geometry = *preset_geometry("gpt-oss-20b");
  EXPECT_EQ(geometry.run_bytes(0), 0);
  EXPECT_EQ(geometry.run_bytes(1), geometry.block_bytes());
  EXPECT_EQ(geometry.run_bytes(512) / (512 * 256), 24576 + 24);  // 24,576 a token and 3.1 MB of windows
  EXPECT_EQ(geometry.run_bytes(512) - uint64_t{24576} * 512 * 256, 12U * 262144);
}

TEST(Geometry, AnUnknownModelIsNamedWithThoseThatAreKnown) {
  const auto error = preset_geometry("gpt-5");
  ASSERT_FALSE(error);
  EXPECT_NE(error.error().message.find("gpt-5"), std::string::npos);
  EXPECT_NE(error.error().message.find("qwen3-30b-a3b"), std::string::npos);
}

TEST(Geometry, ValidateRefusesWhatCannotBe) {
  Geometry geometry = *preset_geometry("llama-3.1-8b");
  EXPECT_TRUE(validate(geometry));
  geometry.window = {true};
  EXPECT_FALSE(validate(geometry));
  geometry.window.clear();
  geometry.segment_bytes[3] = 0;
  EXPECT_FALSE(validate(geometry));
  geometry.segment_bytes.assign(segments_max + 1, 4096);
  EXPECT_FALSE(validate(geometry));
  geometry.segment_bytes.clear();
  EXPECT_FALSE(validate(geometry));
}

TEST(Geometry, UniformRoundsEachSegmentUp) {
  const Geometry geometry = uniform_geometry("trace", 512, 64, 4, 4096);
  EXPECT_EQ(geometry.segment_bytes, std::vector<uint32_t>(4, 8192));
  EXPECT_EQ(uniform_geometry("t", 512, 1, 4, 4096).segment_bytes[0], 4096);
}

}  // namespace
}  // namespace kvpool
