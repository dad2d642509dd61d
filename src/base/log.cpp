#include "base/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <array>
#include <cstdlib>
#include <memory>
#include <optional>
#include <utility>

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

std::optional<spdlog::level::level_enum> level_from_environment() {
  const char* text = std::getenv("KVPOOL_LOG");
  if (text == nullptr || *text == '\0') return spdlog::level::info;
  constexpr std::array<std::pair<std::string_view, spdlog::level::level_enum>, 5> levels = {
      {{"debug", spdlog::level::debug},
       {"info", spdlog::level::info},
       {"warn", spdlog::level::warn},
       {"error", spdlog::level::err},
       {"off", spdlog::level::off}}};
  for (const auto& [name, level] : levels) {
    if (name == text) return level;
  }
  return std::nullopt;
}

spdlog::logger& logger() {
  static const auto instance = [] {
    // Not in spdlog's register of names: a shared object of ours has a logger too.
    auto made = std::make_shared<spdlog::logger>("kvpool", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    made->set_pattern("%Y-%m-%dT%H:%M:%S.%e kvpool %l: %v");
    made->set_level(level_from_environment().value_or(spdlog::level::info));
    return made;
  }();
  return *instance;
}

}  // namespace

void log_message(LogLevel level, std::string_view message) { logger().log(level_of(level), message); }
bool log_level_is_valid() { return level_from_environment().has_value(); }

}  // namespace kvpool
