// kvpool probe: what the devices of a pool deliver, alone and all together.

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <future>
#include <memory>
#include <vector>

#include "apps/command.h"
#include "apps/pool_options.h"
#include "apps/progress.h"
#include "base/units.h"
#include "config/config.h"
#include "kvpool/kvpool.h"

namespace kvpool {
namespace {

using nlohmann::ordered_json;

constexpr size_t result_bytes_max = 1 << 20;
constexpr double seconds_max = 3600;
constexpr double together_seconds_max = 3;

struct ProbeCommand {
  PoolOptions pool;
  double seconds = 10;
  bool sweep = true;
  bool save = false;
  const CLI::Option* save_given = nullptr;
};

struct Measured {
  kvpool_status status = KVPOOL_OK;
  std::string json;
  std::string error;
};

Measured measure(const std::string& toml, const kvpool_probe_options& options) {
  const kvpool_options pool{.struct_size = sizeof pool, .config_path = nullptr, .config_toml = toml.c_str()};
  Measured out;
  std::vector<char> json(result_bytes_max);
  kvpool_error error{};
  out.status = kvpool_probe(&pool, &options, json.data(), json.size(), nullptr, &error);
  out.json = json.data();
  out.error = error.message;
  return out;
}

// The call says nothing while it works; how long it takes is known.
Measured measure_with_progress(const std::string& toml, const kvpool_probe_options& options, size_t devices) {
  auto working = std::async(std::launch::async, [&] { return measure(toml, options); });
  const uint64_t all_ms = (options.per_device_us * devices + options.together_us) / 1000 + 1;
  const auto start = std::chrono::steady_clock::now();
  {
    ProgressBar bar("measuring, ms");
    while (working.wait_for(std::chrono::milliseconds(100)) != std::future_status::ready) {
      const auto spent =
          std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - start);
      bar.update(std::min(static_cast<uint64_t>(spent.count()), all_ms), all_ms);
    }
  }
  return working.get();
}

std::string milliseconds(const ordered_json& nanoseconds) {
  return fmt::format("{:.3f} ms", nanoseconds.get<double>() / 1e6);
}

std::string rate(const ordered_json& bytes_per_second) {
  const auto value = bytes_per_second.get<double>();
  return value > 0 ? format_bytes_per_second(value) : "-";
}

void print_table(const ordered_json& result) {
  fmt::print("{:<16} {:>12} {:>12} {:>12} {:>12} {:>12} {:>11}\n", "device", "read", "write", "together",
             "read takes", "write takes", "in flight");
  double together = 0;
  for (const ordered_json& device : result["devices"]) {
    const auto queue_bytes = device["queue_bytes"].get<uint64_t>();
    fmt::print("{:<16} {:>12} {:>12} {:>12} {:>12} {:>12} {:>11}\n", device["name"].get<std::string>(),
               rate(device["read_bytes_per_second"]), rate(device["write_bytes_per_second"]),
               rate(device["together_bytes_per_second"]), milliseconds(device["read_latency_ns"]),
               milliseconds(device["write_latency_ns"]), queue_bytes > 0 ? format_bytes(queue_bytes) : "-");
    together += device["together_bytes_per_second"].get<double>();
  }
  if (together > 0) fmt::print("all together read {}\n", format_bytes_per_second(together));
  fmt::print("{}, {}\n", result["measured_at"].get<std::string>(), result["conditions"].get<std::string>());
  if (result["profile"].is_string()) fmt::print("saved as {}\n", result["profile"].get<std::string>());
}

// A device that fails was found wrong; all else was wrong before anything was measured.
int exit_code_of(kvpool_status status) {
  const bool device_failed =
      status == KVPOOL_IO_ERROR || status == KVPOOL_SHORT_IO || status == KVPOOL_TIMED_OUT;
  return device_failed ? exit_wrong : exit_bad_input;
}

int run_probe(const Tool& tool, const ProbeCommand& command) {
  const auto config = command.pool.config();
  if (!config) return print_error(config.error().message);
  if (!(command.seconds >= 0.01 && command.seconds <= seconds_max)) {
    return print_error(fmt::format("--seconds: {} is not from 0.01 to {}", command.seconds, seconds_max));
  }
  const bool save = command.save_given->empty() ? !config->profile_path.empty() : command.save;
  if (save && config->profile_path.empty()) {
    return print_error("--save: a pool made of --device has no file to save beside; give --config FILE");
  }
  kvpool_probe_options options{};
  options.struct_size = sizeof options;
  options.per_device_us = static_cast<uint64_t>(command.seconds * 1e6);
  options.together_us = static_cast<uint64_t>(std::min(command.seconds, together_seconds_max) * 1e6);
  options.sweep = command.sweep ? 1 : 0;
  options.save = save ? 1 : 0;
  const Measured measured = measure_with_progress(to_toml(*config), options, config->devices.size());
  if (measured.status != KVPOOL_OK) return print_error(measured.error, exit_code_of(measured.status));
  const ordered_json result = ordered_json::parse(measured.json);
  if (tool.json()) {
    print_json(result);
  } else {
    print_table(result);
  }
  return exit_good;
}

}  // namespace

void add_probe(Tool& tool) {
  CLI::App* command = tool.parser().add_subcommand(
      "probe", "measure what the devices deliver; what they hold is overwritten");
  auto options = std::make_shared<ProbeCommand>();
  options->pool.add_to(*command);
  command->add_option("--seconds", options->seconds, "for each device alone")
      ->type_name("S")
      ->capture_default_str();
  command->add_flag("--sweep,!--no-sweep", options->sweep, "over sizes and queue depths too (default)");
  options->save_given =
      command->add_flag("--save,!--no-save", options->save,
                        "write the profile beside the configuration (default with --config)");
  tool.on(command, [&tool, options] { return run_probe(tool, *options); });
}

}  // namespace kvpool
