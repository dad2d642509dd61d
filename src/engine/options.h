// What an engine is told when it is made. Plain data.

#pragma once

#include <cstdint>
#include <vector>

#include "base/clock.h"
#include "layout/profile.h"

namespace kvpool {

enum class Verify : uint8_t { storage, always, none };

struct EngineOptions {
  uint32_t consumers_max = 32;
  uint32_t tickets_max = 64;
  uint32_t pins_max = 256;
  uint32_t blocks_per_request_max = 4096;
  uint32_t segments_per_request_max = 32768;
  Nanos deadline{std::chrono::seconds(30)};      // of a request that names none
  Nanos stall_warning{std::chrono::seconds(5)};  // without progress
  Verify verify = Verify::storage;
  uint32_t transfer_workers = 1;  // that copy and sum at the same time
  std::vector<double> shares;     // planned, one a device
  Profile profile;                // one entry a device
};

}  // namespace kvpool
