#include "apps/document_plan.h"

#include <algorithm>

#include "base/prng.h"

namespace kvpool {
namespace {

double busiest_over_ideal(std::span<const uint64_t> bytes, std::span<const double> shares) {
  uint64_t total = 0;
  for (const uint64_t device : bytes) total += device;
  double worst = 0;
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (shares[i] <= 0 || total == 0) continue;
    worst = std::max(worst, static_cast<double>(bytes[i]) / (shares[i] * static_cast<double>(total)));
  }
  return worst;
}

}  // namespace

DocumentPlan plan_document(const Geometry& geometry, std::span<const double> shares, uint64_t tokens,
                           uint64_t document) {
  DocumentPlan plan;
  plan.blocks = (tokens + geometry.block_tokens - 1) / geometry.block_tokens;
  plan.devices.resize(shares.size());
  for (size_t i = 0; i < shares.size(); ++i) plan.devices[i].planned = shares[i];
  const Placement placement(shares);
  const Phase phase = phase_of_root(BlockKey{mix64(document), document});
  const uint32_t segments = geometry.segments();
  std::vector<DeviceId> devices(plan.blocks * segments);  // [blocks][segments]
  for (uint64_t depth = 0; depth < plan.blocks; ++depth) {
    placement.plan(phase, static_cast<uint32_t>(depth),
                   std::span(devices).subspan(depth * segments, segments));
  }
  std::vector<uint64_t> prefix_bytes(shares.size(), 0);
  for (uint32_t segment = 0; segment < segments; ++segment) {
    const uint64_t bytes = geometry.segment_bytes[segment];
    for (uint64_t depth = 0; depth < plan.blocks; ++depth) {
      const size_t device = devices[depth * segments + segment].value;
      const bool read = !geometry.is_window(segment) || depth + 1 == plan.blocks;
      DeviceShare& share = plan.devices[device];
      ++share.segments;
      share.bytes_stored += bytes;
      plan.bytes_stored += bytes;
      if (!read) continue;
      share.bytes_read += bytes;
      plan.bytes_read += bytes;
      prefix_bytes[device] += bytes;
    }
    plan.prefixes.push_back({segment + 1, busiest_over_ideal(prefix_bytes, shares)});
  }
  return plan;
}

}  // namespace kvpool
