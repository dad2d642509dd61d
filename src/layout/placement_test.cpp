#include "layout/placement.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

namespace kvpool {
namespace {

std::vector<std::vector<double>> mixes() {
  return {{1, 1}, {16, 1}, {1, 1, 1, 1}, {8, 4, 2, 1}, {5, 3, 3, 1}, {16, 9, 8, 7, 5, 3, 2, 1}, {13, 13, 28}};
}

std::vector<double> normalised(std::vector<double> weights) {
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  for (double& weight : weights) weight /= sum;
  return weights;
}

// The busiest device's load over its ideal load, for the segments that `counts` says.
double worst_ratio(const Placement& placement, uint32_t blocks, const std::vector<uint32_t>& segments,
                   Phase phase) {
  std::vector<double> load(placement.shares().size(), 0);
  for (uint32_t depth = 0; depth < blocks; ++depth) {
    for (const uint32_t segment : segments) load[placement.device(phase, depth, segment).value] += 1;
  }
  double worst = 0;
  const double total = static_cast<double>(blocks) * static_cast<double>(segments.size());
  for (size_t i = 0; i < load.size(); ++i) worst = std::max(worst, load[i] / (placement.shares()[i] * total));
  return worst;
}

TEST(Placement, EveryLayerPrefixIsBalanced) {
  for (const auto& mix : mixes()) {
    const Placement placement(normalised(mix));
    for (const uint32_t layers : {24U, 32U, 48U, 64U}) {
      for (uint32_t prefix = layers / 4; prefix <= layers; ++prefix) {
        std::vector<uint32_t> segments(prefix);
        std::iota(segments.begin(), segments.end(), 0);
        EXPECT_LE(worst_ratio(placement, 64, segments, Phase(0x12345678)), 1.09) << layers << " " << prefix;
        EXPECT_LE(worst_ratio(placement, 512, segments, Phase(0x9abcdef0)), 1.012) << layers << " " << prefix;
      }
    }
  }
}

TEST(Placement, EveryOtherLayerIsBalanced) {
  std::vector<uint32_t> odd(12);
  for (uint32_t i = 0; i < odd.size(); ++i) odd[i] = 2 * i + 1;
  for (const auto& mix : mixes()) {
    EXPECT_LE(worst_ratio(Placement(normalised(mix)), 512, odd, Phase(77)), 1.012);
  }
}

TEST(Placement, IsAPureFunctionOfPhaseDepthAndSegment) {
  const std::vector<double> shares = {0.5, 0.3, 0.2};
  const Placement a(shares);
  const Placement b(shares);
  std::vector<DeviceId> plan(48);
  a.plan(Phase(5), 9, plan);
  for (uint32_t s = 0; s < plan.size(); ++s) EXPECT_EQ(plan[s], b.device(Phase(5), 9, s));
}

TEST(Placement, ADeviceWithoutAShareGetsNothing) {
  for (const std::vector<double>& shares : {std::vector<double>{0.0, 1.0}, {1.0, 0.0}, {0.5, 0.0, 0.5}}) {
    const Placement placement(shares);
    for (uint32_t depth = 0; depth < 1000; ++depth) {
      const DeviceId device = placement.device(Phase(depth * 0x9e3779b9U), depth, depth % 64);
      EXPECT_GT(shares[device.value], 0) << depth;
    }
  }
}

Profile three_devices() {
  Profile profile;
  profile.devices = {{.name = "memory", .read_bytes_per_second = 40e9},
                     {.name = "fast", .read_bytes_per_second = 14e9, .storage = true},
                     {.name = "slow", .read_bytes_per_second = 7e9, .storage = true}};
  return profile;
}

TEST(PlannedShares, AreProportionalToBandwidth) {
  const auto shares = planned_shares(PlacementRule::bandwidth, three_devices());
  EXPECT_NEAR(shares[0], 40.0 / 61, 1e-12);
  EXPECT_NEAR(shares[1], 14.0 / 61, 1e-12);
  EXPECT_NEAR(shares[2], 7.0 / 61, 1e-12);
}

TEST(PlannedShares, SpareMemoryWhereTheLinkIsTheLimit) {
  Profile profile = three_devices();
  profile.link_bytes_per_second = 53e9;
  const auto shares = planned_shares(PlacementRule::link, profile);
  EXPECT_NEAR(shares[0], 32.0 / 53, 1e-12);
  EXPECT_NEAR(shares[1], 14.0 / 53, 1e-12);
  profile.link_bytes_per_second = 10e9;  // the drives alone fill it
  EXPECT_EQ(planned_shares(PlacementRule::link, profile)[0], 0);
  profile.link_bytes_per_second = 100e9;  // it does not bind
  EXPECT_NEAR(planned_shares(PlacementRule::link, profile)[0], 40.0 / 61, 1e-12);
}

TEST(PlannedShares, EqualIsEqual) {
  for (const double share : planned_shares(PlacementRule::equal, three_devices()))
    EXPECT_NEAR(share, 1.0 / 3, 1e-12);
}

}  // namespace
}  // namespace kvpool
