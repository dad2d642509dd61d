// kvpool bench simulate.

#include <fmt/format.h>

#include <memory>

#include "apps/command.h"
#include "apps/progress.h"
#include "apps/whole_number.h"
#include "bench/simulate.h"

namespace kvpool {
namespace {

int run_bench_simulate(const Tool& tool, const bench::SimulateOptions& options) {
  bench::SimulateResult result;
  {
    ProgressBar bar("bench simulate");
    result = bench::simulate(options, [&](uint32_t done) { bar.update(done, options.mixes); });
  }
  if (tool.json()) {
    print_json(bench::simulate_json(result));
  } else {
    fmt::print("{}", bench::simulate_table(result));
  }
  return exit_good;
}

}  // namespace

void add_bench_simulate(Tool& tool) {
  CLI::App* command =
      tool.group("bench", "measure kvpool")
          ->add_subcommand("simulate", "retrieves from random pools of simulated devices, in virtual time");
  auto options = std::make_shared<bench::SimulateOptions>();
  command->add_option("--mixes", options->mixes, "of devices")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  command->add_option("--seed", options->seed, "of the first mix; the next ones count up")
      ->check(whole_number())
      ->capture_default_str();
  command->add_option("--segments-on-slowest", options->segments_on_slowest, "of a retrieve, at least")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  tool.on(command, [&tool, options] { return run_bench_simulate(tool, *options); });
}

}  // namespace kvpool
