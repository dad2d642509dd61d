#include "layout/placement.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/assert.h"
#include "base/prng.h"

namespace kvpool {
namespace {

// The R2 sequence's two steps times 2^64: 1/g and 1/g^2, g = 1.32471795724474602596 (g^3 = g + 1).
constexpr uint64_t step_depth = 0xC13FA9A902A6328FULL;
constexpr uint64_t step_segment = 0x91E10DA5C79E7B1CULL;

std::vector<double> normalised(std::vector<double> weights) {
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  KVPOOL_ASSERT(sum > 0);
  for (double& weight : weights) weight /= sum;
  return weights;
}

// Storage gives all it has; memory fills the link up to the rest.
std::vector<double> link_weights(const Profile& profile) {
  double storage = 0;
  double memory = 0;
  for (const DeviceProfile& device : profile.devices) {
    (device.storage ? storage : memory) += device.read_bytes_per_second;
  }
  const double link = profile.link_bytes_per_second;
  const bool bounded = link > 0 && storage > 0 && storage + memory > link;
  const double memory_scale = bounded ? std::max(0.0, link - storage) / memory : 1.0;
  std::vector<double> weights;
  weights.reserve(profile.devices.size());
  for (const DeviceProfile& device : profile.devices) {
    weights.push_back(device.read_bytes_per_second * (device.storage || memory <= 0 ? 1.0 : memory_scale));
  }
  return weights;
}

}  // namespace

Phase phase_of_root(const BlockKey& root) {
  return Phase(static_cast<uint32_t>(mix64(root.high ^ mix64(root.low)) >> 32));
}

std::vector<double> planned_shares(PlacementRule rule, const Profile& profile) {
  KVPOOL_ASSERT(!profile.devices.empty());
  std::vector<double> weights;
  switch (rule) {
    case PlacementRule::equal:
      weights.assign(profile.devices.size(), 1.0);
      break;
    case PlacementRule::link:
      weights = link_weights(profile);
      break;
    case PlacementRule::bandwidth:
      for (const DeviceProfile& device : profile.devices) weights.push_back(device.read_bytes_per_second);
      break;
  }
  return normalised(std::move(weights));
}

Placement::Placement(std::span<const double> shares) : shares_(shares.begin(), shares.end()) {
  KVPOOL_ASSERT(!shares.empty() && shares.size() <= devices_max);
  double end = 0;
  for (const double share : shares) {
    KVPOOL_ASSERT(share >= 0);
    end += share;
    ends_.push_back(end >= 1.0 ? UINT64_MAX : static_cast<uint64_t>(std::ldexp(end, 64)));
  }
  KVPOOL_ASSERT(std::abs(end - 1.0) < 1e-9);
  // Rounding must not leave a gap at the top, nor give it to a device whose share is zero.
  size_t last = shares.size() - 1;
  while (shares[last] == 0) --last;
  for (; last < ends_.size(); ++last) ends_[last] = UINT64_MAX;
}

DeviceId Placement::device(Phase phase, uint32_t depth, uint32_t segment) const {
  const uint64_t point = (uint64_t{phase.value} << 32) + depth * step_depth + segment * step_segment;
  const auto owner = std::ranges::upper_bound(ends_, point);
  const auto index =
      owner == ends_.end() ? std::ranges::lower_bound(ends_, point) - ends_.begin() : owner - ends_.begin();
  return DeviceId(static_cast<uint8_t>(index));
}

void Placement::plan(Phase phase, uint32_t depth, std::span<DeviceId> out) const {
  for (uint32_t segment = 0; segment < out.size(); ++segment) out[segment] = device(phase, depth, segment);
}

}  // namespace kvpool
