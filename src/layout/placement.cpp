#include "layout/placement.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/assert.h"
#include "base/prng.h"
#include "layout/lattice.h"

namespace kvpool {
namespace {

std::vector<double> normalised(std::vector<double> weights) {
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  KVPOOL_ASSERT(sum > 0);
  for (double& weight : weights) weight /= sum;
  return weights;
}

struct Rates {
  double storage = 0;
  double memory = 0;
};

Rates sum_rates(const Profile& profile) {
  Rates rates;
  for (const DeviceProfile& device : profile.devices) {
    (device.storage ? rates.storage : rates.memory) += device.retrieve_bytes_per_second();
  }
  return rates;
}

// Every device's bandwidth, those of memory times memory_scale.
std::vector<double> weights_of(const Profile& profile, double memory_scale) {
  std::vector<double> weights;
  weights.reserve(profile.devices.size());
  for (const DeviceProfile& device : profile.devices) {
    weights.push_back(device.retrieve_bytes_per_second() * (device.storage ? 1.0 : memory_scale));
  }
  return weights;
}

// When storage is done, of the link's time. What comes with the link's last byte has a consumer's work behind
// it; so where memory can fill the link without, storage is given less.
constexpr double storage_done_at = 2.0 / 3;

std::vector<double> bandwidth_weights(const Profile& profile) {
  const auto [storage, memory] = sum_rates(profile);
  const double link = profile.link_bytes_per_second;
  if (link <= 0 || storage <= 0 || memory <= 0) return weights_of(profile, 1.0);
  // Of the link's rate: no more than storage needs to be done early, no less than memory leaves of it.
  const double of_storage = std::max(storage_done_at * storage, link - memory);
  return weights_of(profile, std::max(1.0, (link - of_storage) * storage / (of_storage * memory)));
}

// Storage gives all it has; memory fills the link up to the rest.
std::vector<double> link_weights(const Profile& profile) {
  const auto [storage, memory] = sum_rates(profile);
  const double link = profile.link_bytes_per_second;
  const bool bounded = link > 0 && storage > 0 && memory > 0 && storage + memory > link;
  return weights_of(profile, bounded ? std::max(0.0, link - storage) / memory : 1.0);
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
      weights = bandwidth_weights(profile);
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

DeviceId Placement::owner(uint64_t point) const {
  const auto above = std::ranges::upper_bound(ends_, point);
  const auto found = above == ends_.end() ? std::ranges::lower_bound(ends_, point) : above;
  return DeviceId(static_cast<uint8_t>(found - ends_.begin()));
}

void Placement::plan(Phase phase, uint32_t depth, std::span<DeviceId> out) const {
  const Lattice lattice = lattice_of(static_cast<uint32_t>(out.size()));
  uint64_t point = (uint64_t{phase.value} << 32) + depth * lattice.depth_step;
  for (DeviceId& device : out) {
    device = owner(point);
    point += lattice.segment_step;
  }
}

}  // namespace kvpool
