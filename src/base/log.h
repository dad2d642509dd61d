// Logging to standard error, through spdlog. Never called on the data path except for a failure that is
// counted, and never with payload, keys of payload or secrets.
//
// The environment's KVPOOL_LOG says what is logged: debug, info (the default), warn, error or off. It is read
// at the first message.

#pragma once

#include <fmt/format.h>

#include <string_view>

namespace kvpool {

enum class LogLevel { debug, info, warn, error };

void log_message(LogLevel level, std::string_view message);
// False: KVPOOL_LOG names no level, and the default holds.
[[nodiscard]] bool log_level_is_valid();

template <class... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
  log_message(LogLevel::info, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_warn(fmt::format_string<Args...> format, Args&&... args) {
  log_message(LogLevel::warn, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_error(fmt::format_string<Args...> format, Args&&... args) {
  log_message(LogLevel::error, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace kvpool
