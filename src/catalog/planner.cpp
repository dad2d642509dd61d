#include "catalog/planner.h"

#include <cmath>

namespace kvpool {
namespace {

// The fraction of the square root of 2, in units of 2^-64. Multiples of it lie evenly, and so do those at
// whose segments the lattice of the plan, which steps by the golden ratio, meets a full device: of 24 to 80
// segments in chains of 64 blocks prefixes miss the shares by at most 5%, two layers alone by at most 14% (of
// other numbers of segments two layers by up to 36%).
constexpr uint64_t point_step = 0x6a09e667f3bcc909;

}  // namespace

uint64_t Planner::first_point(Phase phase, uint32_t depth, uint32_t segments) {
  return (uint64_t{phase.value} << 32) + uint64_t{depth} * segments * point_step;
}

void Planner::count(const std::vector<Space>& spaces, const Shape& shape, bool as_if_empty) {
  for (size_t d = 0; d < spaces.size(); ++d) {
    if (offline_[d]) {
      empty_[d] = 0;
      free_[d].fill(0);
      continue;
    }
    empty_[d] = as_if_empty ? spaces[d].slabs() : spaces[d].empty_slabs();
    for (size_t k = 0; k < shape.kinds.size(); ++k) {
      free_[d][k] = as_if_empty ? 0 : spaces[d].free_slots(shape.kinds[k]);
    }
  }
}

bool Planner::take(const Space& space, size_t device, const Shape& shape, uint32_t kind) {
  uint32_t& free = free_[device][kind];
  if (free == 0) {
    const uint32_t slots = space.slots_per_slab(shape.kinds[kind]);
    if (slots == 0 || empty_[device] == 0) return false;
    --empty_[device];
    free = slots;
  }
  --free;
  return true;
}

uint64_t Planner::room(const std::vector<Space>& spaces, const Shape& shape, uint32_t kind,
                       size_t device) const {
  const SizeClass c = shape.kinds[kind];
  const uint64_t slots = free_[device][kind] + uint64_t{empty_[device]} * spaces[device].slots_per_slab(c);
  return slots * spaces[device].slot_bytes(c);
}

DeviceId Planner::roomiest(const std::vector<Space>& spaces, const Shape& shape, uint32_t kind) const {
  DeviceId best = no_device;
  uint64_t most = 0;
  for (size_t d = 0; d < spaces.size(); ++d) {
    const uint64_t bytes = room(spaces, shape, kind, d);
    if (bytes > most) {
      most = bytes;
      best = DeviceId(static_cast<uint8_t>(d));
    }
  }
  return best;
}

DeviceId Planner::stand_in(const std::vector<Space>& spaces, const Shape& shape, uint32_t kind,
                           uint64_t point) const {
  double all = 0;
  for (size_t d = 0; d < spaces.size(); ++d) {
    if (room(spaces, shape, kind, d) > 0) all += shares_[d];
  }
  if (all == 0) return roomiest(spaces, shape, kind);
  double left = std::ldexp(static_cast<double>(point), -64) * all;
  DeviceId found = no_device;
  for (size_t d = 0; d < spaces.size() && left >= 0; ++d) {
    if (shares_[d] == 0 || room(spaces, shape, kind, d) == 0) continue;
    found = DeviceId(static_cast<uint8_t>(d));
    left -= shares_[d];
  }
  return found;
}

Fit Planner::fit(const std::vector<Space>& spaces, const Shape& shape, std::span<const DeviceId> plan,
                 uint64_t first_point, std::span<SegmentSlot> chosen) {
  count(spaces, shape, false);
  uint32_t homeless = 0;
  for (uint32_t s = 0; s < plan.size(); ++s) {
    chosen[s] = {.device = plan[s], .size_class = shape.size_class(s)};
    if (take(spaces[plan[s].value], plan[s].value, shape, shape.kind_of[s])) continue;
    if (homeless++ == 0 || offline_[short_of_.device.value]) short_of_ = chosen[s];
    chosen[s].device = no_device;
  }
  if (homeless == 0) return Fit::planned;
  for (uint32_t s = 0; s < plan.size(); ++s) {
    if (chosen[s].device != no_device) continue;
    const DeviceId device = stand_in(spaces, shape, shape.kind_of[s], first_point + s * point_step);
    if (device == no_device) {
      // Room is to be made where that helps.
      for (size_t d = 0; d < spaces.size() && offline_[short_of_.device.value]; ++d) {
        if (offline_[d] || spaces[d].slots_per_slab(short_of_.size_class) == 0) continue;
        short_of_.device = DeviceId(static_cast<uint8_t>(d));
      }
      return Fit::no_room;
    }
    KVPOOL_ASSERT(take(spaces[device.value], device.value, shape, shape.kind_of[s]));
    chosen[s].device = device;
  }
  return Fit::spilled;
}

bool Planner::fits_on(const std::vector<Space>& spaces, const Shape& shape, DeviceId device,
                      std::span<const bool> wanted) {
  count(spaces, shape, false);
  for (uint32_t s = 0; s < wanted.size(); ++s) {
    if (wanted[s] && !take(spaces[device.value], device.value, shape, shape.kind_of[s])) return false;
  }
  return true;
}

bool Planner::fits_empty(const std::vector<Space>& spaces, const Shape& shape) {
  count(spaces, shape, true);
  for (uint32_t s = 0; s < shape.segments(); ++s) {
    const DeviceId device = roomiest(spaces, shape, shape.kind_of[s]);
    if (device == no_device) return false;
    KVPOOL_ASSERT(take(spaces[device.value], device.value, shape, shape.kind_of[s]));
  }
  return true;
}

}  // namespace kvpool
