// What a run cost the machine: processor time of the process, and how one thread spent its time.
//
// Thread: any. Failure: none; what the kernel does not tell counts as 0.

#pragma once

#include <sys/types.h>

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

// How a thread has spent its life (/proc/self/task/TID/schedstat): on a processor, and ready but waiting for
// one. The rest of the wall time it slept in a system call.
struct ThreadTime {
  Nanos running{0};
  Nanos runnable{0};
};
[[nodiscard]] ThreadTime thread_time(pid_t thread);
[[nodiscard]] pid_t this_thread();

}  // namespace kvpool::bench
