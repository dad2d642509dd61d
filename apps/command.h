// What the commands of the tool share: the parser, --json, exit codes, output.
//
// A new command takes a file of its own and two lines:
//   1. apps/NAME_command.cpp, named in apps/CMakeLists.txt, which defines void kvpool::add_NAME(Tool& tool):
//      it adds a subcommand to tool.parser(), its options to that, and tool.on(command, run). Options live in
//      a std::shared_ptr that `run` keeps.
//   2. KVPOOL_COMMAND(NAME) in apps/commands.def, in the order in which --help lists them.
// A command of two words (bench longdoc) adds its parent by tool.group("bench", ...), which finds or makes
// it.
//
// `run` is called after the whole line was read without an error and returns an exit code. Standard output
// belongs to the result: with --json it is one object, written by print_json() alone. Progress, warnings and
// errors go to standard error (print_error, base/log.h). The environment is read in main.cpp only.

#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/result.h"

namespace kvpool {

inline constexpr int exit_good = 0;
inline constexpr int exit_wrong = 1;      // the run found something wrong
inline constexpr int exit_bad_input = 2;  // nothing was run

class Tool {
 public:
  Tool();

  [[nodiscard]] CLI::App& parser() { return parser_; }
  [[nodiscard]] CLI::App* group(const std::string& name, const std::string& description);
  [[nodiscard]] bool json() const { return json_; }

  // Has `run` called when `command` stands on the line.
  void on(CLI::App* command, std::function<int()> run);

  // Reads the line and runs the command. Returns the process's exit code.
  [[nodiscard]] int run(int argc, const char* const* argv);

 private:
  [[nodiscard]] std::string command_names() const;

  CLI::App parser_;
  bool json_ = false;
  std::function<int()> chosen_;
};

// Writes "kvpool: line" to standard error for each line of the message. Returns `code`.
int print_error(std::string_view message, int code = exit_bad_input);

// Writes `result` with schema_version in front to standard output.
void print_json(const nlohmann::ordered_json& result, int schema_version = 1);

}  // namespace kvpool
