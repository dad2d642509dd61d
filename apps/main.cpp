// The command line tool: wiring alone. Commands are listed in commands.def.

#include <fmt/format.h>

#include <csignal>
#include <cstdlib>

#include "apps/command.h"
#include "base/log.h"

namespace kvpool {

#define KVPOOL_COMMAND(name) void add_##name(Tool& tool);
#include "apps/commands.def"
#undef KVPOOL_COMMAND

}  // namespace kvpool

int main(int argc, char** argv) {
  // A write past the limit of `ulimit -f` is an error then, and no death without a word.
  (void)std::signal(SIGXFSZ, SIG_IGN);
  if (!kvpool::log_level_is_valid()) {
    return kvpool::print_error(
        fmt::format("KVPOOL_LOG is '{}' and not a level; allowed: debug, info, warn, error, off",
                    std::getenv("KVPOOL_LOG")));
  }
  kvpool::Tool tool;
#define KVPOOL_COMMAND(name) kvpool::add_##name(tool);
#include "apps/commands.def"
#undef KVPOOL_COMMAND
  return tool.run(argc, argv);
}
