// kvpool bench device.

#include <fmt/format.h>

#include <memory>

#include "apps/bench_machine.h"
#include "apps/command.h"
#include "apps/pool_options.h"
#include "base/units.h"
#include "bench/device_bench.h"

namespace kvpool {
namespace {

constexpr double seconds_min = 0.1;
constexpr double seconds_max = 600;

struct DeviceOptions {
  std::string device;
  std::string size = "1MiB";
  uint32_t depth = 32;
  double seconds = 3;
  bool write = false;
  bool in_order = false;
};

int run_bench_device(const Tool& tool, const DeviceOptions& options) {
  Config config;
  auto device = parse_device(options.device);
  if (!device) return print_error(device.error().message);
  config.devices.push_back(std::move(*device));
  fill_defaults(config);
  if (Status valid = validate(config); !valid) return print_error(valid.error().message);
  const auto size = parse_bytes(options.size);
  if (!size || *size < 4096 || *size > (64U << 20) || *size % 4096 != 0) {
    return print_error(fmt::format("--size is '{}', and not a multiple of 4096 up to 64MiB", options.size));
  }
  if (!(options.seconds >= seconds_min && options.seconds <= seconds_max)) {
    return print_error(
        fmt::format("--seconds: {} is not from {} to {}", options.seconds, seconds_min, seconds_max));
  }
  BenchMachine machine;
  const auto result = bench::run_device_bench(
      machine, config,
      {.write = options.write,
       .random = !options.in_order,
       .size_bytes = static_cast<uint32_t>(*size),
       .depth = options.depth,
       .duration = std::chrono::duration_cast<Nanos>(std::chrono::duration<double>(options.seconds))});
  if (!result) {
    return print_error(result.error().message,
                       result.error().code == Errc::io_error ? exit_wrong : exit_bad_input);
  }
  const double latency_us = std::chrono::duration<double, std::micro>(result->command_latency).count();
  const double user_s = std::chrono::duration<double>(result->cpu.user).count();
  const double system_s = std::chrono::duration<double>(result->cpu.system).count();
  if (tool.json()) {
    print_json({{"device", result->device},
                {"operation", options.write ? "write" : "read"},
                {"command_bytes", result->command_bytes},
                {"commands", result->commands},
                {"bytes_per_second", result->bytes_per_second},
                {"command_latency_us", latency_us},
                {"seconds", result->seconds},
                {"cpu_user_s", user_s},
                {"cpu_system_s", system_s}});
    return exit_good;
  }
  fmt::print("{}: {} {}, {} commands of {} under way, each {:.0f} us, {:.0f}% of a core\n", result->device,
             format_bytes_per_second(result->bytes_per_second), options.write ? "written" : "read",
             result->commands, format_bytes(result->command_bytes), latency_us,
             100 * (user_s + system_s) / result->seconds);
  return exit_good;
}

}  // namespace

void add_bench_device(Tool& tool) {
  CLI::App* command =
      tool.group("bench", "measure kvpool")
          ->add_subcommand("device", "one device, at one size and depth; what it holds is overwritten");
  auto options = std::make_shared<DeviceOptions>();
  command->add_option("--device", options->device, "as a pool's: file,path=PATH,size=4GiB")
      ->required()
      ->type_name("SPEC");
  command->add_option("--size", options->size, "of a request")->capture_default_str();
  command->add_option("--depth", options->depth, "requests under way")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command->add_option("--seconds", options->seconds, "after as long a time of writing")
      ->capture_default_str();
  command->add_flag("--write", options->write, "instead of reading");
  command->add_flag("--in-order", options->in_order, "instead of at random");
  tool.on(command, [&tool, options] { return run_bench_device(tool, *options); });
}

}  // namespace kvpool
