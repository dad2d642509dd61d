#include "layout/placement.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/prng.h"

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

// The busiest device's load over its ideal load, for `blocks` blocks of `layers` segments of which those that
// `segments` names count.
double worst_ratio(const Placement& placement, uint32_t blocks, uint32_t layers,
                   const std::vector<uint32_t>& segments, Phase phase) {
  std::vector<double> load(placement.shares().size(), 0);
  std::vector<DeviceId> plan(layers);
  for (uint32_t depth = 0; depth < blocks; ++depth) {
    placement.plan(phase, depth, plan);
    for (const uint32_t segment : segments) load[plan[segment].value] += 1;
  }
  double worst = 0;
  const double total = static_cast<double>(blocks) * static_cast<double>(segments.size());
  for (size_t i = 0; i < load.size(); ++i) worst = std::max(worst, load[i] / (placement.shares()[i] * total));
  return worst;
}

std::vector<uint32_t> first_segments(uint32_t count) {
  std::vector<uint32_t> segments(count);
  std::iota(segments.begin(), segments.end(), 0);
  return segments;
}

// The worst over layer prefixes of at least a quarter, its mean over mixes and phases: R2 has 1.017 to 1.032
// at 64 blocks and 1.002 to 1.004 at 512.
TEST(Placement, EveryLayerPrefixIsBalanced) {
  for (const uint32_t layers : {24U, 32U, 48U, 64U}) {
    double sum64 = 0;
    double sum512 = 0;
    uint32_t count = 0;
    for (const auto& mix : mixes()) {
      const Placement placement(normalised(mix));
      for (uint32_t phase = 0; phase < 8; ++phase) {
        double worst64 = 0;
        double worst512 = 0;
        for (uint32_t prefix = layers / 4; prefix <= layers; prefix += 3) {
          const auto segments = first_segments(prefix);
          worst64 =
              std::max(worst64, worst_ratio(placement, 64, layers, segments, Phase(phase * 0x1fffffff)));
          worst512 =
              std::max(worst512, worst_ratio(placement, 512, layers, segments, Phase(phase * 0x1fffffff)));
        }
        sum64 += worst64;
        sum512 += worst512;
        ++count;
      }
    }
    EXPECT_LE(sum64 / count, 1.035) << layers;
    EXPECT_LE(sum512 / count, 1.006) << layers;
  }
}

TEST(Placement, EveryOtherLayerIsBalanced) {
  for (const auto& mix : mixes()) {
    const Placement placement(normalised(mix));
    for (const uint32_t layers : {24U, 32U, 48U, 64U}) {
      std::vector<uint32_t> odd;
      for (uint32_t i = 1; i < layers; i += 2) odd.push_back(i);
      EXPECT_LE(worst_ratio(placement, 512, layers, odd, Phase(77)), 1.006);
    }
  }
}

TEST(Placement, WholeBlocksMissTheirShareByLessThanThreeSegments) {
  Prng prng(1);
  for (int round = 0; round < 2000; ++round) {
    std::vector<double> weights(prng.between(2, 8));
    for (double& weight : weights) weight = 1 + 15 * prng.unit();
    const Placement placement(normalised(weights));
    const auto layers = static_cast<uint32_t>(prng.between(1, segments_max));
    const auto blocks = static_cast<uint32_t>(prng.between(1, 200));
    std::vector<double> load(weights.size(), 0);
    std::vector<DeviceId> plan(layers);
    const Phase phase(static_cast<uint32_t>(prng.next()));
    for (uint32_t depth = 0; depth < blocks; ++depth) {
      placement.plan(phase, depth, plan);
      for (const DeviceId device : plan) load[device.value] += 1;
    }
    for (size_t i = 0; i < load.size(); ++i) {
      EXPECT_LT(std::abs(load[i] - placement.shares()[i] * layers * blocks), 2.75)
          << layers << " x " << blocks;
    }
  }
}

TEST(Placement, ASingleLayerIsSpreadOverAllDevices) {
  const Placement placement(normalised({1, 1, 1, 1}));
  for (const uint32_t layers : {24U, 32U, 48U, 64U}) {
    for (uint32_t layer = 0; layer < layers; ++layer) {
      EXPECT_LE(worst_ratio(placement, 64, layers, {layer}, Phase(5)), 1.2) << layers << " " << layer;
    }
  }
}

TEST(Placement, IsAPureFunctionOfPhaseDepthAndSegment) {
  const std::vector<double> shares = {0.5, 0.3, 0.2};
  std::vector<DeviceId> a(48);
  std::vector<DeviceId> b(48);
  Placement(shares).plan(Phase(5), 9, a);
  Placement(shares).plan(Phase(5), 9, b);
  EXPECT_EQ(a, b);
}

TEST(Placement, ADeviceWithoutAShareGetsNothing) {
  for (const std::vector<double>& shares : {std::vector<double>{0.0, 1.0}, {1.0, 0.0}, {0.5, 0.0, 0.5}}) {
    const Placement placement(shares);
    std::vector<DeviceId> plan(64);
    for (uint32_t depth = 0; depth < 1000; ++depth) {
      placement.plan(Phase(depth * 0x9e3779b9U), depth, plan);
      for (const DeviceId device : plan) EXPECT_GT(shares[device.value], 0) << depth;
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

TEST(PlannedShares, AreOfWhatWasMeasuredTogether) {
  Profile profile = three_devices();
  profile.devices[0].together_bytes_per_second = 21e9;
  profile.devices[1].together_bytes_per_second = 14e9;
  const auto shares = planned_shares(PlacementRule::bandwidth, profile);
  EXPECT_NEAR(shares[0], 0.5, 1e-12);
  EXPECT_NEAR(shares[2], 7.0 / 42, 1e-12);
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

// A disk's bytes come in two thirds of the time that the link needs, if memory can fill it without them.
TEST(PlannedShares, HaveStorageReadBeforeTheLinkIsDone) {
  const auto shares = [](double memory, double drive, double link) {
    Profile profile = three_devices();
    profile.devices.resize(2);
    profile.devices[0].read_bytes_per_second = memory;
    profile.devices[1].read_bytes_per_second = drive;
    profile.link_bytes_per_second = link;
    return planned_shares(PlacementRule::bandwidth, profile);
  };
  EXPECT_NEAR(shares(50e9, 2e9, 50e9)[1], 2.0 / 3 * 2 / 50, 1e-12);
  EXPECT_NEAR(shares(50e9, 14e9, 50e9)[1], 2.0 / 3 * 14 / 50, 1e-12);
  EXPECT_NEAR(shares(50e9, 25e9, 50e9)[1], 1.0 / 3, 1e-12) << "by bandwidth they come as early";
  EXPECT_NEAR(shares(50e9, 40e9, 50e9)[1], 40.0 / 90, 1e-12);
  EXPECT_NEAR(shares(49e9, 2e9, 50e9)[1], 2.0 / 3 * 2 / 50, 1e-12) << "with as little of the disk";
  EXPECT_NEAR(shares(48.5e9, 2e9, 50e9)[1], 1.5 / 50, 1e-12) << "memory has no more";
  EXPECT_NEAR(shares(40e9, 14e9, 50e9)[1], 10.0 / 50, 1e-12);
  EXPECT_NEAR(shares(40e9, 2e9, 50e9)[1], 2.0 / 42, 1e-12) << "both together do not fill it";
  EXPECT_NEAR(shares(60e9, 2e9, 50e9)[1], 2.0 / 3 * 2 / 50, 1e-12);
  EXPECT_NEAR(shares(100e9, 2e9, 50e9)[1], 2.0 / 102, 1e-12) << "it is done sooner in any case";
  EXPECT_NEAR(shares(50e9, 2e9, 0)[1], 2.0 / 52, 1e-12) << "no link is known";

  Profile four = three_devices();
  four.devices.resize(4);
  for (DeviceProfile& device : four.devices) device.together_bytes_per_second = 0;
  for (size_t i = 0; i < 4; ++i) four.devices[i].storage = i % 2 == 1;
  four.devices[0].read_bytes_per_second = 30e9;
  four.devices[1].read_bytes_per_second = 9e9;
  four.devices[1].together_bytes_per_second = 6e9;
  four.devices[2].read_bytes_per_second = 25e9;
  four.devices[3].read_bytes_per_second = 3e9;
  four.link_bytes_per_second = 50e9;
  const std::vector<double> of_four = planned_shares(PlacementRule::bandwidth, four);
  EXPECT_NEAR(of_four[1], 2.0 / 3 * 6 / 50, 1e-12) << "as fast as it is beside the others";
  EXPECT_NEAR(of_four[3], 2.0 / 3 * 3 / 50, 1e-12);
  EXPECT_NEAR(of_four[0] / of_four[2], 30.0 / 25, 1e-12);
}

}  // namespace
}  // namespace kvpool
