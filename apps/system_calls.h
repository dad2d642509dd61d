// Counts the system calls for I/O that this process makes, thread by thread. For that the tool's own read(),
// ppoll() and the like stand before the C library's (system_calls.cpp), as do the calls of liburing that
// enter the kernel; they look at one flag, and while a count runs at the clock, before and after. It needs no
// privileges, and it sees every library that the process has loaded. Waits on locks (futexes) are not I/O and
// not seen.
//
// Thread: any makes calls; one at a time counts.

#pragma once

#include "bench/system_calls.h"

namespace kvpool {

void start_counting_system_calls();
[[nodiscard]] std::vector<bench::ThreadCalls> stop_counting_system_calls();

}  // namespace kvpool
