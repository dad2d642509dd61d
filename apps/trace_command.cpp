// kvpool trace generate.

#include <fmt/format.h>

#include <iostream>
#include <memory>
#include <sstream>

#include "apps/command.h"
#include "apps/whole_number.h"
#include "base/text_file.h"
#include "bench/trace.h"

namespace kvpool {
namespace {

struct GenerateArguments {
  bench::TraceOptions options;
  std::string output_path;
};

bool looks_like_trace(std::string_view text) {
  const std::string_view line = text.substr(0, text.find('\n'));
  return line.starts_with('{') && line.find("\"hash_ids\"") != std::string_view::npos;
}

Status write_file(const std::string& path, const bench::Trace& trace) {
  std::ostringstream out;
  bench::write_trace(out, trace);
  return replace_text_file(path, out.view());
}

int generate(const Tool& tool, const GenerateArguments& arguments) {
  if (tool.json() && arguments.output_path.empty()) {
    return print_error(
        "--json needs --output FILE: the trace itself is one JSON object a line, not one in all");
  }
  if (!arguments.output_path.empty()) {
    if (const Status good = check_replaceable(arguments.output_path, looks_like_trace, "a trace"); !good) {
      return print_error("--output: " + good.error().message);
    }
  }
  const auto trace = bench::generate_trace(arguments.options);
  if (!trace) return print_error(trace.error().message);
  if (arguments.output_path.empty()) {
    bench::write_trace(std::cout, *trace);
    std::cout.flush();  // whether that went well the tool looks at
    return exit_good;
  }
  if (const Status status = write_file(arguments.output_path, *trace); !status) {
    return print_error(status.error().message);
  }
  uint64_t blocks = 0;
  for (const bench::TraceRequest& request : trace->requests()) blocks += request.blocks();
  if (tool.json()) {
    print_json({{"file", arguments.output_path}, {"requests", trace->requests().size()}, {"blocks", blocks}});
  } else {
    fmt::print("{}: {} requests, {} blocks\n", arguments.output_path, trace->requests().size(), blocks);
  }
  return exit_good;
}

}  // namespace

void add_trace(Tool& tool) {
  CLI::App* group = tool.group("trace", "make traces for replay");
  CLI::App* command = group->add_subcommand(
      "generate", "conversations of many turns, as JSON lines; the same options give the same trace");
  auto arguments = std::make_shared<GenerateArguments>();
  bench::TraceOptions& options = arguments->options;
  const auto add = [command](const char* name, uint64_t& value, const char* what) {
    command->add_option(name, value, what)->capture_default_str()->check(whole_number());
  };
  add("--seed", options.seed, "of the random numbers");
  add("--requests", options.requests, "in all");
  add("--conversations", options.conversations, "at a time");
  add("--turns", options.turns, "of a conversation, mean");
  add("--system-tokens", options.system_tokens, "of the system prompt, the same in all conversations");
  add("--prompt-tokens", options.prompt_tokens, "that a turn adds, mean");
  add("--output-tokens", options.output_tokens, "of a turn's answer, mean");
  add("--think-ms", options.think_ms, "from a turn to the next, mean");
  command->add_option("--output", arguments->output_path, "the file to write; standard output without")
      ->type_name("FILE");
  tool.on(command, [&tool, arguments] { return generate(tool, *arguments); });
}

}  // namespace kvpool
