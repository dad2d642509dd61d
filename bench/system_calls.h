// What the threads of a run spend in system calls for I/O: how often and for how long. They are counted where
// the program makes them, by whoever composes it (apps/system_calls.h); the benches say when, and add up.
//
// Thread: one starts and stops a count. Failure: none.

#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"

namespace kvpool::bench {

enum class CallKind : uint8_t {
  io,       // on a file, a drive, a ring or a socket, whatever it waits for
  message,  // on an eventfd: one thread wakes another
  wait,     // asleep until something comes, while a storage device has a request of this thread under way
  idle,     // asleep without one
};
inline constexpr size_t call_kinds = 4;

struct ThreadCalls {
  struct Count {
    uint64_t calls = 0;
    Nanos time{0};
  };
  pid_t thread = 0;
  std::string name;
  std::array<Count, call_kinds> kinds;

  [[nodiscard]] const Count& of(CallKind kind) const { return kinds[static_cast<size_t>(kind)]; }
};

struct SystemCallCounter {
  std::function<void()> start;
  // What each thread has called since, a call that it is still in up to now. Ends the count.
  std::function<std::vector<ThreadCalls>()> stop;
};

// Requests that storage devices driven by the calling thread have under way; what a sleep is for.
inline constinit thread_local size_t storage_requests_under_way = 0;

// Of all threads. `drivers` are those that drive storage devices: what these sleep is part of their I/O. The
// others sleep until a thread of this process has something for them, and that one's calls are counted.
struct CallTotals {
  uint64_t io_calls = 0;
  uint64_t other_calls = 0;
  Nanos blocked{0};  // in I/O calls, waits included
  Nanos idle{0};     // the part of it in which no storage device had anything under way
};
[[nodiscard]] CallTotals add_up(std::span<const ThreadCalls> threads, std::span<const pid_t> drivers);

}  // namespace kvpool::bench
