// kvpool bench longdoc.

#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <memory>
#include <string_view>

#include "apps/bench_machine.h"
#include "apps/command.h"
#include "apps/pool_options.h"
#include "apps/progress.h"
#include "apps/system_calls.h"
#include "apps/whole_number.h"
#include "base/units.h"
#include "bench/longdoc.h"
#include "probe/profile_file.h"

namespace kvpool {
namespace {

struct LongdocArguments {
  PoolOptions pool;
  std::vector<std::string> models{"llama-3.1-8b"};
  std::vector<std::string> tokens{"16k"};
  std::vector<std::string> systems{"all"};
  bench::LongdocOptions options;
};

Result<bench::LongdocOptions> to_options(const LongdocArguments& arguments) {
  bench::LongdocOptions options = arguments.options;
  auto config = arguments.pool.config();
  if (!config) return tl::unexpected(config.error());
  options.config = std::move(*config);
  for (const std::string& model : arguments.models) {
    auto geometry = find_geometry(options.config, model);
    if (!geometry) return tl::unexpected(geometry.error());
    options.models.push_back(std::move(*geometry));
  }
  options.tokens.clear();
  for (const std::string& text : arguments.tokens) {
    const auto tokens = parse_tokens(text);
    if (!tokens) return fail(tokens.error().code, "--tokens " + tokens.error().message);
    options.tokens.push_back(*tokens);
  }
  if (arguments.systems != std::vector<std::string>{"all"}) options.systems = arguments.systems;
  if (const Status valid = validate(options); !valid) return tl::unexpected(valid.error());
  auto profile = stored_profile(options.config.profile_path, options.config.unmeasured());
  if (!profile) return tl::unexpected(profile.error());
  options.profile = std::move(*profile);
  return options;
}

// What the machine or the input refused, before or while documents were stored; nothing came back wrong.
bool is_bad_input(Errc code) {
  switch (code) {
    case Errc::invalid_argument:
    case Errc::too_large:
    case Errc::in_use:
    case Errc::not_ours:
    case Errc::unsupported:
    case Errc::system:
    case Errc::rejected:  // the devices are too small
      return true;
    default:
      return false;
  }
}

std::atomic<int> stop_signal{0};

void stop_soon(int signal) {
  stop_signal = signal;
  constexpr std::string_view words =
      "\nkvpool: stopping after this step, files will be removed; a second Ctrl-C stops at once and leaves "
      "them\n";
  (void)!write(STDERR_FILENO, words.data(), words.size());
  if (signal == SIGHUP) return;  // a terminal that goes may send two
  for (const int again : {SIGINT, SIGTERM}) (void)std::signal(again, SIG_DFL);
}

// Gigabytes would be left behind. What the parent wants ignored (nohup) stays so.
void stop_on_signals() {
  for (const int signal : {SIGHUP, SIGINT, SIGTERM}) {
    struct sigaction action{};
    (void)sigaction(signal, nullptr, &action);
    if (action.sa_handler == SIG_IGN) continue;
    action = {};
    action.sa_handler = stop_soon;
    action.sa_flags = SA_RESTART;
    (void)sigaction(signal, &action, nullptr);
  }
}

int run_longdoc(const Tool& tool, const LongdocArguments& arguments) {
  auto options = to_options(arguments);
  if (!options) return print_error(options.error().message);
  stop_on_signals();
  options->stopped = [] { return stop_signal != 0; };
  BenchMachine machine;
  Result<std::vector<bench::LongdocRow>> rows;
  {
    ProgressBar bar("bench longdoc");
    constexpr uint64_t all = 1000;
    rows = bench::run_longdoc(machine, *options, {start_counting_system_calls, stop_counting_system_calls},
                              [&bar](const std::string& /*phrase*/, double done) {
                                bar.update(
                                    static_cast<uint64_t>(std::lround(done * static_cast<double>(all))), all);
                              });
  }
  if (!rows && stop_signal != 0) {
    const bool only = rows.error().code == Errc::cancelled;
    return print_error(
        "stopped by a signal; its files are removed" + (only ? "" : "; " + rows.error().message),
        128 + stop_signal);
  }
  if (!rows) {
    return print_error(rows.error().message, is_bad_input(rows.error().code) ? exit_bad_input : exit_wrong);
  }
  if (tool.json()) {
    print_json(bench::longdoc_json(*rows, systems_left_out(*options)));
  } else {
    fmt::print("{}", bench::longdoc_table(*rows, systems_left_out(*options)));
  }
  for (const bench::LongdocRow& row : *rows) {
    if (row.wrong_blocks > 0)
      return print_error(fmt::format("{}: {} wrong blocks", row.system, row.wrong_blocks), exit_wrong);
  }
  return exit_good;
}

}  // namespace

void add_bench_longdoc(Tool& tool) {
  CLI::App* command =
      tool.group("bench", "measure kvpool")
          ->add_subcommand("longdoc",
                           "Long Document QA: store documents, ask them again in random order, "
                           "and compare with today's ways of keeping them");
  auto arguments = std::make_shared<LongdocArguments>();
  bench::LongdocOptions& options = arguments->options;
  arguments->pool.add_to(*command);
  command
      ->add_option("--model", arguments->models,
                   "whose KV caches the documents are: namespaces of the configuration, or presets")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--tokens", arguments->tokens, "of each document, up to 128k; k = 1024")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--documents", options.documents, "stored, and each asked once in a repeat")
      ->check(whole_number())
      ->capture_default_str();
  command->add_option("--concurrency", options.concurrency, "questions under way at a time, up to 16")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--repeat", options.repeat, "how often the documents are asked")
      ->check(whole_number())
      ->capture_default_str();
  command
      ->add_option("--systems", arguments->systems,
                   "all that the devices allow, or of tiered-files, pooled-files, tiered-direct, "
                   "striped-direct, pooled-direct, tiered-passthrough, pooled-passthrough")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--seed", options.seed, "of the documents and of the order of the questions")
      ->check(whole_number())
      ->capture_default_str();
  tool.on(command, [&tool, arguments] { return run_longdoc(tool, *arguments); });
}

}  // namespace kvpool
