// kvpool bench engine.

#include <fmt/format.h>

#include <memory>

#include "apps/allocations.h"
#include "apps/bench_machine.h"
#include "apps/command.h"
#include "bench/engine_bench.h"

namespace kvpool {
namespace {

int run_bench_engine(const Tool& tool, const bench::EngineBenchOptions& options) {
  BenchMachine machine;
  const auto result =
      bench::run_engine_bench(machine, options, {start_counting_allocations, stop_counting_allocations});
  if (!result) {
    const bool no_room = result.error().code == Errc::system || result.error().code == Errc::too_large;
    return print_error(result.error().message, no_room ? exit_bad_input : exit_wrong);
  }
  if (tool.json()) {
    print_json(bench::engine_bench_json(*result));
  } else {
    fmt::print("{}", bench::engine_bench_table(*result));
  }
  return exit_good;
}

}  // namespace

void add_bench_engine(Tool& tool) {
  CLI::App* command =
      tool.group("bench", "measure kvpool")
          ->add_subcommand("engine", "the engine alone, on null devices, and the catalog's memory");
  auto options = std::make_shared<bench::EngineBenchOptions>();
  command->add_option("--consumers", options->consumers, "driven by one thread")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  command
      ->add_option("--blocks", options->catalog_blocks, "in the catalog of a match; the last is match_512_us")
      ->delimiter(',')
      ->check(CLI::Range(512, 20'000'000))
      ->capture_default_str();
  tool.on(command, [&tool, options] { return run_bench_engine(tool, *options); });
}

}  // namespace kvpool
