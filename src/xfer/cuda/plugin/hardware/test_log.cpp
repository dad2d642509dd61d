#include "xfer/cuda/plugin/hardware/test_log.h"

#include <cstdio>
#include <mutex>
#include <utility>

#include "base/log.h"

namespace kvpool {
namespace {

std::mutex lock;
std::string lines;

}  // namespace

std::string take_log() {
  const std::scoped_lock locked(lock);
  return std::exchange(lines, {});
}

void log_message(LogLevel /*level*/, std::string_view message) {
  const std::scoped_lock locked(lock);
  lines.append(message).append("\n");
  (void)std::fprintf(stderr, "log: %.*s\n", static_cast<int>(message.size()), message.data());
}

}  // namespace kvpool
