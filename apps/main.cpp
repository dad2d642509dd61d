// The command line tool: wiring alone. Commands are listed in commands.def.

#include <array>
#include <cstdlib>
#include <string>
#include <utility>

#include "apps/command.h"
#include "base/log.h"

namespace kvpool {

#define KVPOOL_COMMAND(name) void add_##name(Tool& tool);
#include "apps/commands.def"
#undef KVPOOL_COMMAND

namespace {

// KVPOOL_LOG. False: it names no level.
bool set_log_level_from_environment() {
  const char* text = std::getenv("KVPOOL_LOG");
  if (text == nullptr || *text == '\0') return true;
  constexpr std::array<std::pair<std::string_view, LogLevel>, 4> levels = {{{"debug", LogLevel::debug},
                                                                            {"info", LogLevel::info},
                                                                            {"warn", LogLevel::warn},
                                                                            {"error", LogLevel::error}}};
  for (const auto& [name, level] : levels) {
    if (name != text) continue;
    set_log_level(level);
    return true;
  }
  return false;
}

}  // namespace
}  // namespace kvpool

int main(int argc, char** argv) {
  if (!kvpool::set_log_level_from_environment()) {
    return kvpool::print_error("KVPOOL_LOG is not a level; allowed: debug, info, warn, error");
  }
  kvpool::Tool tool;
#define KVPOOL_COMMAND(name) kvpool::add_##name(tool);
#include "apps/commands.def"
#undef KVPOOL_COMMAND
  return tool.run(argc, argv);
}
