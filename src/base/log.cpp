#include "base/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

namespace kvpool {
namespace {

spdlog::level::level_enum level_of(LogLevel level) {
  switch (level) {
    case LogLevel::debug:
      return spdlog::level::debug;
    case LogLevel::info:
      return spdlog::level::info;
    case LogLevel::warn:
      return spdlog::level::warn;
    case LogLevel::error:
      return spdlog::level::err;
  }
  return spdlog::level::err;
}

spdlog::logger& logger() {
  static const auto instance = [] {
    auto made = spdlog::stderr_logger_mt("kvpool");
    made->set_pattern("%Y-%m-%dT%H:%M:%S.%e kvpool %l: %v");
    return made;
  }();
  return *instance;
}

}  // namespace

void log_message(LogLevel level, std::string_view message) { logger().log(level_of(level), message); }
void set_log_level(LogLevel lowest) { logger().set_level(level_of(lowest)); }

}  // namespace kvpool
