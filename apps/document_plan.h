// Where a document would lie: the placement rule applied to every segment of one document, counted. Nothing
// is opened. Pure arithmetic.

#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "layout/geometry.h"
#include "layout/placement.h"

namespace kvpool {

struct DeviceShare {
  double planned = 0;         // of the placement rule
  uint64_t segments = 0;      // stored on it
  uint64_t bytes_stored = 0;  // logical
  uint64_t bytes_read = 0;    // by a retrieve: window segments in the last block alone
};

// How even the first `segments` layers lie, which is what layer-wise overlap waits for: the busiest device's
// read bytes over its planned share of all read bytes; 1 is ideal.
struct PrefixBalance {
  uint32_t segments = 0;
  double busiest_over_ideal = 0;
};

struct DocumentPlan {
  uint64_t blocks = 0;
  uint64_t bytes_stored = 0;
  uint64_t bytes_read = 0;
  std::vector<DeviceShare> devices;
  std::vector<PrefixBalance> prefixes;  // of 1, 2, ... all segments
};

// A document of `tokens` tokens; a last, partial block counts as a full one. `document` seeds the root's key.
// REQUIRES: tokens > 0; shares as Placement wants them.
[[nodiscard]] DocumentPlan plan_document(const Geometry& geometry, std::span<const double> shares,
                                         uint64_t tokens, uint64_t document);

}  // namespace kvpool
