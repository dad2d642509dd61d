// Placement: which device a segment belongs on. A pure function of the shares, the chain's phase, the block's
// depth in it and the segment; no state is carried.
//
// Device i owns an interval of width share_i in [0, 1). Segment l of the block at depth d goes to the device
// whose interval holds frac(u + d x 0.7548776662466927 + l x 0.5698402909980532), the R2 low-discrepancy
// sequence (M. Roberts, 2018), so every rectangle of depths and layers is close to the shares. Computed in
// 64-bit fixed point: a sum that wraps is frac().

#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/ids.h"
#include "layout/profile.h"

namespace kvpool {

enum class PlacementRule : uint8_t {
  bandwidth,  // proportional to measured read bandwidth: the paper's rule
  link,       // as bandwidth, but memory is spared where the sum exceeds the link to the consumer
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

  [[nodiscard]] DeviceId device(Phase phase, uint32_t depth, uint32_t segment) const;
  // The devices of segments 0, 1, ... of one block.
  void plan(Phase phase, uint32_t depth, std::span<DeviceId> out) const;
  [[nodiscard]] const std::vector<double>& shares() const { return shares_; }

 private:
  std::vector<double> shares_;
  std::vector<uint64_t> ends_;  // upper end of each device's interval; the last is 2^64 - 1
};

}  // namespace kvpool
