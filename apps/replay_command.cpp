// kvpool replay TRACE.

#include <fmt/format.h>

#include <memory>
#include <optional>

#include "apps/command.h"
#include "apps/pool_options.h"
#include "apps/progress.h"
#include "apps/whole_number.h"
#include "bench/client.h"
#include "bench/replay.h"
#include "bench/trace.h"
#include "config/config.h"

namespace kvpool {
namespace {

constexpr double speed_min = 0.001;
constexpr double speed_max = 1e9;

struct ReplayArguments {
  PoolOptions pool;
  std::string trace_path;
  std::string model = "llama-3.1-8b";
  std::optional<uint64_t> bytes_per_token;
  uint64_t limit = 0;
  std::optional<double> speed;
};

Status check_speed(const ReplayArguments& arguments) {
  if (!arguments.speed || (*arguments.speed >= speed_min && *arguments.speed <= speed_max)) return {};
  return fail(Errc::invalid_argument,
              fmt::format("--speed {}: a multiple of the trace's time from {} to {} is allowed",
                          *arguments.speed, speed_min, speed_max));
}

// What the run needs, all of it checked before a device is touched.
struct ReplayPlan {
  Config config;
  bench::Trace trace;
  bench::ReplayOptions options;
};

Result<ReplayPlan> plan_replay(const ReplayArguments& arguments) {
  ReplayPlan plan;
  if (const Status status = check_speed(arguments); !status) return tl::unexpected(status.error());
  auto geometry = arguments.bytes_per_token ? bench::replay_geometry(*arguments.bytes_per_token)
                                            : bench::replay_geometry(arguments.model);
  if (!geometry) return tl::unexpected(geometry.error());
  auto config = arguments.pool.config();
  if (!config) return tl::unexpected(config.error());
  auto trace = bench::load_trace(arguments.trace_path);
  if (!trace) return tl::unexpected(trace.error());
  plan.config = std::move(*config);
  plan.trace = std::move(*trace);
  plan.options.geometry = std::move(*geometry);
  plan.options.requests_max = arguments.limit;
  plan.options.speed = arguments.speed.value_or(0);
  plan.options.region_bytes = plan.config.buffer_bytes;
  plan.options.blocks_max = plan.config.limits.blocks_per_request;
  plan.options.segments_max = plan.config.limits.segments_per_request;
  return plan;
}

// Whether an error that ended the replay lies in what was asked, not in what happened.
bool is_bad_input(Errc code) {
  return code == Errc::invalid_argument || code == Errc::too_large || code == Errc::unsupported;
}

int run_replay(const Tool& tool, const ReplayArguments& arguments) {
  auto plan = plan_replay(arguments);
  if (!plan) return print_error(plan.error().message);
  auto pool = bench::Pool::open(to_toml(plan->config));
  if (!pool) return print_error(pool.error().message);
  Result<bench::ReplayReport> report;
  {
    ProgressBar bar("replay");
    plan->options.progress = [&bar](uint64_t done, uint64_t all) { bar.update(done, all); };
    report = bench::replay(*pool, plan->trace, plan->options);
  }
  if (!report) {
    return print_error(report.error().message,
                       is_bad_input(report.error().code) ? exit_bad_input : exit_wrong);
  }
  if (const Status status = pool->close(); !status) return print_error(status.error().message, exit_wrong);
  if (tool.json()) {
    print_json(bench::to_json(*report));
  } else {
    fmt::print("{}", bench::to_text(*report));
  }
  return report->is_good() ? exit_good : exit_wrong;
}

}  // namespace

void add_replay(Tool& tool) {
  CLI::App* command = tool.parser().add_subcommand(
      "replay", "retrieve and store what a trace's requests would, and compare every byte that comes back");
  auto arguments = std::make_shared<ReplayArguments>();
  command
      ->add_option("TRACE", arguments->trace_path,
                   "requests as JSON lines: timestamp, input_length, output_length, hash_ids")
      ->required();
  arguments->pool.add_to(*command);
  CLI::Option* model = command->add_option("--model", arguments->model, "whose KV caches the blocks are")
                           ->capture_default_str();
  command
      ->add_option("--bytes-per-token", arguments->bytes_per_token,
                   "smaller blocks, so that a long trace fits a small pool: this many bytes a token, in four "
                   "segments a block")
      ->check(whole_number())
      ->excludes(model);
  command->add_option("--limit", arguments->limit, "the first so many requests; 0: all")
      ->capture_default_str()
      ->check(whole_number());
  command->add_option("--speed", arguments->speed,
                      "play the trace's own times, so many times as fast; as fast as possible without");
  tool.on(command, [&tool, arguments] { return run_replay(tool, *arguments); });
}

}  // namespace kvpool
