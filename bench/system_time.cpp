#include "bench/system_time.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
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

std::optional<Nanos> disk_busy(dev_t device) {
  std::ifstream file(fmt::format("/sys/dev/block/{}:{}/stat", major(device), minor(device)));
  constexpr int fields_before = 9;
  int64_t value = 0;
  for (int i = 0; i <= fields_before; ++i) {
    if (!(file >> value)) return std::nullopt;
  }
  return std::chrono::milliseconds(value);
}

pid_t this_thread() { return static_cast<pid_t>(syscall(SYS_gettid)); }

}  // namespace kvpool::bench
