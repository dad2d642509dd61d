#include "bench/system_calls.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "bench/in_flight.h"

namespace kvpool::bench {
namespace {

ThreadCalls thread_of(pid_t thread, int io_ms, int message_ms, int wait_ms, int idle_ms) {
  ThreadCalls made{.thread = thread};
  const std::array<int, call_kinds> all = {io_ms, message_ms, wait_ms, idle_ms};
  for (size_t kind = 0; kind < call_kinds; ++kind) {
    made.kinds[kind] = {static_cast<uint64_t>(all[kind]) * 10, std::chrono::milliseconds(all[kind])};
  }
  return made;
}

TEST(SystemCalls, OnlyWhoDrivesStorageSleepsForIt) {
  const std::vector<ThreadCalls> threads = {thread_of(1, 1, 2, 3, 4), thread_of(2, 10, 20, 30, 40)};
  const CallTotals none = add_up(threads, {});
  EXPECT_EQ(none.io_calls, 110U);
  EXPECT_EQ(none.other_calls, 990U);
  EXPECT_EQ(none.blocked, std::chrono::milliseconds(11));
  EXPECT_EQ(none.idle, Nanos(0));
  const std::vector<pid_t> drivers = {2, 2};
  const CallTotals totals = add_up(threads, drivers);
  EXPECT_EQ(totals.io_calls, 110U + 700U);
  EXPECT_EQ(totals.other_calls, 90U + 200U);
  EXPECT_EQ(totals.blocked, std::chrono::milliseconds(11 + 70));
  EXPECT_EQ(totals.idle, std::chrono::milliseconds(40));
}

TEST(InFlight, KnowsTheUnionAndTheSum) {
  InFlight in_flight;
  in_flight.begin(Nanos(100));
  in_flight.begin(Nanos(130));
  EXPECT_FALSE(in_flight.end(Nanos(150), 1));
  EXPECT_EQ(in_flight.busy(), Nanos(0));
  EXPECT_TRUE(in_flight.end(Nanos(200), 1));
  EXPECT_EQ(in_flight.busy(), Nanos(100));
  EXPECT_EQ(in_flight.total(), Nanos(50 + 70));
  in_flight.begin(Nanos(1000));
  in_flight.begin(Nanos(1000));
  EXPECT_TRUE(in_flight.end(Nanos(1010), 2));
  EXPECT_EQ(in_flight.busy(), Nanos(110));
  EXPECT_EQ(in_flight.total(), Nanos(120 + 20));
}

}  // namespace
}  // namespace kvpool::bench
