// What a run cost the machine: processor time of the process, time of a disk.
//
// Thread: any. Failure: none; processor time that the kernel does not tell counts as 0.

#pragma once

#include <sys/types.h>

#include <optional>

#include "base/clock.h"

namespace kvpool::bench {

// Processor time of all threads of this process so far (getrusage).
struct CpuTime {
  Nanos user{0};
  Nanos system{0};
  friend CpuTime operator-(const CpuTime& a, const CpuTime& b) {
    return {a.user - b.user, a.system - b.system};
  }
};
[[nodiscard]] CpuTime process_cpu_time();

// For how long a block device has had at least one request under way since it is there, as the kernel counts
// it, in steps of a tick (/sys/dev/block/M:N/stat, io_ticks). None: it is no block device, as with btrfs.
[[nodiscard]] std::optional<Nanos> disk_busy(dev_t device);
[[nodiscard]] pid_t this_thread();

}  // namespace kvpool::bench
