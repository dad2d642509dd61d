#include "apps/command.h"

#include <fmt/format.h>

#include <cstdio>
#include <exception>

#include "kvpool/kvpool.h"

namespace kvpool {

Tool::Tool() : parser_("One pool of host memory and SSDs for the KV caches of long contexts.", "kvpool") {
  parser_.require_subcommand(1);
  // Options that a command does not know belong to the tool: --json may stand last.
  parser_.fallthrough();
  parser_.set_version_flag("--version", "kvpool " KVPOOL_VERSION_STRING, "print the version and end");
  parser_.add_flag("--json", json_, "standard output is one JSON object (docs/cli.md has the schemas)");
}

CLI::App* Tool::group(const std::string& name, const std::string& description) {
  for (CLI::App* existing : parser_.get_subcommands([&](CLI::App* app) { return app->get_name() == name; })) {
    return existing;
  }
  return parser_.add_subcommand(name, description)->require_subcommand(1);
}

// Of the tool, or of the group that stands in the command line.
std::string Tool::command_names() const {
  const CLI::App* at = &parser_;
  while (!at->get_subcommands().empty()) at = at->get_subcommands().front();
  std::string names;
  for (const CLI::App* command : at->get_subcommands([](const CLI::App*) { return true; })) {
    names += (names.empty() ? "" : ", ") + command->get_name();
  }
  return names;
}

void Tool::on(CLI::App* command, std::function<int()> run) {
  command->callback([this, run = std::move(run)] { chosen_ = run; });
}

int Tool::run(int argc, const char* const* argv) {
  try {
    parser_.parse(argc, argv);
  } catch (const CLI::Success& success) {
    return parser_.exit(success);  // --help, --version
  } catch (const CLI::RequiredError& error) {
    const std::vector<std::string> unknown = parser_.remaining(true);
    const std::string names = command_names();
    if (names.empty()) return print_error(fmt::format("{} (try --help)", error.what()));
    if (unknown.empty()) return print_error(fmt::format("a command is missing: {} (try --help)", names));
    return print_error(fmt::format("'{}' is none of the commands: {} (try --help)", unknown[0], names));
  } catch (const CLI::ParseError& error) {
    return print_error(fmt::format("{} (try --help)", error.what()));
  }
  int code = 0;
  try {
    code = chosen_();
  } catch (const std::exception& thrown) {  // no descriptor or no memory is left
    return print_error(thrown.what(), exit_wrong);
  }
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
    return print_error("standard output cannot be written", exit_wrong);
  }
  return code;
}

int print_error(std::string_view message, int code) {
  while (true) {
    const size_t end = message.find('\n');
    const std::string line = fmt::format("kvpool: {}\n", message.substr(0, end));
    std::fwrite(line.data(), 1, line.size(), stderr);  // fmt::print throws where nobody can be told
    if (end == std::string_view::npos) return code;
    message.remove_prefix(end + 1);
  }
}

void print_json(const nlohmann::ordered_json& result, int schema_version) {
  nlohmann::ordered_json whole = {{"schema_version", schema_version}};
  whole.update(result);
  // Paths and names come from outside; what is not UTF-8 must not end the process.
  const std::string text = whole.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
  std::fwrite(text.data(), 1, text.size(), stdout);
}

}  // namespace kvpool
