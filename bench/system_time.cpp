#include "bench/system_time.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <fstream>

namespace kvpool::bench {
namespace {

Nanos to_nanos(const timeval& time) {
  return std::chrono::seconds(time.tv_sec) + std::chrono::microseconds(time.tv_usec);
}

}  // namespace

CpuTime process_cpu_time() {
  rusage usage{};
  if (getrusage(RUSAGE_SELF, &usage) != 0) return {};
  return {to_nanos(usage.ru_utime), to_nanos(usage.ru_stime)};
}

ThreadTime thread_time(pid_t thread) {
  std::ifstream file(fmt::format("/proc/self/task/{}/schedstat", thread));
  int64_t running_ns = 0;
  int64_t runnable_ns = 0;
  if (!(file >> running_ns >> runnable_ns)) return {};
  return {Nanos(running_ns), Nanos(runnable_ns)};
}

pid_t this_thread() { return static_cast<pid_t>(syscall(SYS_gettid)); }

}  // namespace kvpool::bench
