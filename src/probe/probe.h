// Probe: what devices deliver, alone and all together, and what a copy to the consumer delivers. Everything is
// written before it is read: unwritten extents of a preallocated file read as free zeros.
//
// Thread: the caller's; the devices must not be started yet, and are used by this thread alone (open them anew
// for an engine). Blocks for about as long as the options say. What the devices held is overwritten.

#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "io/device.h"
#include "layout/profile.h"
#include "xfer/transfer.h"

namespace kvpool {

struct ProbeOptions {
  Nanos per_device{std::chrono::seconds(10)};  // the most that one device may take, alone
  Nanos together{std::chrono::seconds(3)};     // reading from all at once; 0: not measured
  bool sweep = true;                           // over sizes and queue depths; else 1 MiB at the full depth alone
};

// What is done when a pool is opened without a profile: a second a device at most.
[[nodiscard]] ProbeOptions quick_probe();

// One point of a sweep.
struct ProbePoint {
  uint32_t size_bytes = 0;
  uint32_t queue_depth = 0;
  double bytes_per_second = 0;
  Nanos latency_median{0};
};

// `staging` has one span a device (empty for in-place devices), `buffers` is the consumers' memory: copies end
// there. For an in-place device the bandwidth is that of copies through `transfer`.
[[nodiscard]] Result<Profile> probe(const Clock& clock, const std::vector<Device*>& devices,
                                    const std::vector<std::span<std::byte>>& staging,
                                    std::span<std::byte> buffers,
                                    const std::vector<std::span<std::byte>>& regions, Transfer& transfer,
                                    const ProbeOptions& options);

}  // namespace kvpool
