// Placement: which device a segment belongs on. A pure function of the shares, the chain's phase, the block's
// depth in it and the segment; no state is carried.
//
// Device i owns an interval of width share_i in [0, 1). Segment l of the block at depth d goes to the device
// whose interval holds frac(u + d x depth_step + l x segment_step), a low-discrepancy lattice
// (layout/lattice.h), so every rectangle of depths and layers is close to the shares. Computed in 64-bit
// fixed point: a sum that wraps is frac().

#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/ids.h"
#include "layout/profile.h"

namespace kvpool {

enum class PlacementRule : uint8_t {
  bandwidth,  // proportional to measured read bandwidth; less for storage where memory can fill the link
  link,       // proportional, but memory is spared where the sum exceeds the link to the consumer
  equal,      // the same share for each device: what RAID 0 gives
};

// A chain's phase: where in [0, 1) its sequence starts, in units of 2^-32.
using Phase = Id<struct PhaseTag, uint32_t>;

[[nodiscard]] Phase phase_of_root(const BlockKey& root);

// One share a device, summing to 1. REQUIRES: at least one device; for bandwidth and link every
// read_bytes_per_second > 0.
[[nodiscard]] std::vector<double> planned_shares(PlacementRule rule, const Profile& profile);

class Placement {
 public:
  // REQUIRES: 1 to devices_max shares, none negative, summing to 1 (within rounding).
  explicit Placement(std::span<const double> shares);

  // The devices of segments 0, 1, ... of one block. REQUIRES: out.size() is the geometry's number of
  // segments.
  void plan(Phase phase, uint32_t depth, std::span<DeviceId> out) const;
  [[nodiscard]] const std::vector<double>& shares() const { return shares_; }

 private:
  [[nodiscard]] DeviceId owner(uint64_t point) const;

  std::vector<double> shares_;
  std::vector<uint64_t> ends_;  // upper end of each device's interval; the last is 2^64 - 1
};

}  // namespace kvpool
