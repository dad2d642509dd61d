#include "apps/document_plan.h"

#include <gtest/gtest.h>

namespace kvpool {
namespace {

TEST(DocumentPlan, CountsEverySegmentOnce) {
  const Geometry geometry = *preset_geometry("gpt-oss-20b");
  const std::vector<double> shares = {0.5, 0.3, 0.2};
  const DocumentPlan plan = plan_document(geometry, shares, 16 * 1024 + 1, 7);
  EXPECT_EQ(plan.blocks, 65);
  EXPECT_EQ(plan.bytes_stored, 65 * geometry.block_bytes());
  EXPECT_EQ(plan.bytes_read, geometry.run_bytes(65));
  uint64_t segments = 0;
  uint64_t read = 0;
  for (const DeviceShare& device : plan.devices) {
    segments += device.segments;
    read += device.bytes_read;
  }
  EXPECT_EQ(segments, 65 * 24);
  EXPECT_EQ(read, plan.bytes_read);
}

TEST(DocumentPlan, LiesInProportionAndSoDoPrefixesOfLayers) {
  const std::vector<double> shares = {0.6, 0.3, 0.1};
  const DocumentPlan plan = plan_document(*preset_geometry("llama-3.1-8b"), shares, 128 * 1024, 1);
  for (const DeviceShare& device : plan.devices) {
    const double share = static_cast<double>(device.bytes_stored) / static_cast<double>(plan.bytes_stored);
    EXPECT_NEAR(share / device.planned, 1.0, 0.01);
  }
  ASSERT_EQ(plan.prefixes.size(), 32);
  for (const PrefixBalance& prefix : plan.prefixes) {
    EXPECT_GE(prefix.busiest_over_ideal, 1.0);
    if (prefix.segments >= 8) {
      EXPECT_LE(prefix.busiest_over_ideal, 1.01) << prefix.segments;
    }
  }
}

}  // namespace
}  // namespace kvpool
