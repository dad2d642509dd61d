// Probe: what devices deliver, alone and all together. Everything is written before it is read: unwritten
// extents of a preallocated file read as free zeros.
//
// Thread: the caller's; the devices must not be started yet, and are used by this thread alone (open them
// anew for an engine). Blocks for about as long as the options say. What the devices and buffers held is
// overwritten. Failure: a device that fails a request, or completes none for ten seconds, is named in the
// error. Nothing is in flight when probe() returns, but for Errc::timed_out: then the device that is named
// still holds buffers, which must stay until it is closed.

#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "io/device.h"
#include "layout/profile.h"
#include "probe/waiter.h"
#include "xfer/transfer.h"

namespace kvpool {

struct ProbeOptions {
  Nanos per_device{std::chrono::seconds(10)};  // the most that one device may take, alone
  Nanos together{std::chrono::seconds(3)};     // reading from all at once; 0: not measured
  bool sweep = true;  // over sizes and queue depths; else 1 MiB at the full depth alone
};

// What is done when a pool is opened without a profile: a second a device at most.
[[nodiscard]] ProbeOptions quick_probe();

// One point of a sweep.
struct ProbePoint {
  IoKind kind = IoKind::read;
  uint32_t size_bytes = 0;
  uint32_t queue_depth = 0;
  double bytes_per_second = 0;
  Nanos latency_median{0};
};

struct ProbeResult {
  Profile profile;
  // One list a device. Empty without a sweep; points that buffers, limits or time did not allow are left out.
  std::vector<std::vector<ProbePoint>> points;
};

// `staging` has one span a device (empty for in-place devices), `buffers` is the consumers' memory: copies
// end there. For an in-place device the bandwidth is that of copies through `transfer`.
[[nodiscard]] Result<ProbeResult> probe(const Clock& clock, Waiter& waiter,
                                        const std::vector<Device*>& devices,
                                        const std::vector<std::span<std::byte>>& staging,
                                        std::span<std::byte> buffers,
                                        const std::vector<std::span<std::byte>>& regions, Transfer& transfer,
                                        const ProbeOptions& options);

}  // namespace kvpool
