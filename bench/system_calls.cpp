#include "bench/system_calls.h"

#include <algorithm>

namespace kvpool::bench {

CallTotals add_up(std::span<const ThreadCalls> threads, std::span<const pid_t> drivers) {
  CallTotals totals;
  for (const ThreadCalls& thread : threads) {
    const bool drives = std::ranges::find(drivers, thread.thread) != drivers.end();
    const ThreadCalls::Count& io = thread.of(CallKind::io);
    const ThreadCalls::Count& wait = thread.of(CallKind::wait);
    const ThreadCalls::Count& idle = thread.of(CallKind::idle);
    totals.io_calls += io.calls;
    totals.blocked += io.time;
    totals.other_calls += thread.of(CallKind::message).calls;
    if (drives) {
      totals.io_calls += wait.calls + idle.calls;
      totals.blocked += wait.time + idle.time;
      totals.idle += idle.time;
    } else {
      totals.other_calls += wait.calls + idle.calls;
    }
  }
  return totals;
}

}  // namespace kvpool::bench
