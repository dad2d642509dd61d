#include "apps/system_calls.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <thread>

namespace kvpool {
namespace {

using bench::CallKind;
using bench::ThreadCalls;
using Clock = std::chrono::steady_clock;

ThreadCalls find(const std::vector<ThreadCalls>& threads, pid_t thread) {
  const auto found = std::ranges::find(threads, thread, &ThreadCalls::thread);
  return found == threads.end() ? ThreadCalls{} : *found;
}

TEST(SystemCalls, AreToldApart) {
  const int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  const int event = eventfd(0, EFD_CLOEXEC);
  uint64_t number = 1;
  std::array<std::byte, 16> bytes;
  pollfd readable{event, POLLIN, 0};
  const auto began = Clock::now();
  start_counting_system_calls();
  EXPECT_EQ(pread(file, bytes.data(), bytes.size(), 0), 16);
  EXPECT_EQ(pread(file, bytes.data(), bytes.size(), 16), 16);
  EXPECT_EQ(write(event, &number, sizeof number), 8);
  EXPECT_EQ(poll(&readable, 1, -1), 1);
  EXPECT_EQ(read(event, &number, sizeof number), 8);
  bench::storage_requests_under_way = 1;
  EXPECT_EQ(poll(&readable, 1, 20), 0);
  bench::storage_requests_under_way = 0;
  const auto threads = stop_counting_system_calls();
  const auto all = Clock::now() - began;
  EXPECT_EQ(pread(file, bytes.data(), bytes.size(), 0), 16);  // no longer counted
  ASSERT_EQ(threads.size(), 1U);
  const ThreadCalls& own = threads[0];
  EXPECT_EQ(own.thread, gettid());
  EXPECT_FALSE(own.name.empty());
  EXPECT_EQ(own.of(CallKind::io).calls, 2U);
  EXPECT_GT(own.of(CallKind::io).time, Nanos(0));
  EXPECT_EQ(own.of(CallKind::message).calls, 2U);
  EXPECT_EQ(own.of(CallKind::idle).calls, 1U);
  EXPECT_EQ(own.of(CallKind::wait).calls, 1U);
  EXPECT_GE(own.of(CallKind::wait).time, std::chrono::milliseconds(20));
  EXPECT_LE(own.of(CallKind::idle).time, all - std::chrono::milliseconds(20));
  close(event);
  close(file);
}

TEST(SystemCalls, LeaveErrnoAlone) {
  start_counting_system_calls();
  std::byte byte;
  EXPECT_EQ(pread(-1, &byte, 1, 0), -1);
  EXPECT_EQ(errno, EBADF);
  EXPECT_EQ(stop_counting_system_calls().size(), 1U);
}

// Of a call that began before the count, and of one that ends after it, what lies within is counted.
TEST(SystemCalls, AreCountedFromTheBeginningToTheEnd) {
  const auto pause = [](int ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); };
  std::array<int, 2> ends;
  ASSERT_EQ(pipe(ends.data()), 0);
  std::array<pid_t, 2> ids{};
  const auto sleep_on = [&](int end, pid_t& id) {
    id = gettid();
    std::byte byte;
    EXPECT_EQ(read(end, &byte, 1), 1);
  };
  std::thread before(sleep_on, ends[0], std::ref(ids[0]));
  pause(20);
  const auto began = Clock::now();
  start_counting_system_calls();
  pause(20);
  EXPECT_EQ(write(ends[1], "x", 1), 1);
  before.join();
  const auto counted = Clock::now() - began;
  std::thread after(sleep_on, ends[0], std::ref(ids[1]));
  pause(40);
  const auto threads = stop_counting_system_calls();
  EXPECT_EQ(write(ends[1], "x", 1), 1);
  after.join();
  const ThreadCalls first = find(threads, ids[0]);
  EXPECT_EQ(first.of(CallKind::io).calls, 1U);
  EXPECT_GE(first.of(CallKind::io).time, std::chrono::milliseconds(20));
  EXPECT_LE(first.of(CallKind::io).time, counted);
  const ThreadCalls second = find(threads, ids[1]);
  EXPECT_EQ(second.of(CallKind::io).calls, 1U);
  EXPECT_GE(second.of(CallKind::io).time, std::chrono::milliseconds(10));
  close(ends[0]);
  close(ends[1]);
}

}  // namespace
}  // namespace kvpool
