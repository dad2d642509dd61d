#include "apps/pool_options.h"

#include <fmt/format.h>

#include <algorithm>

namespace kvpool {
namespace {

Result<Config> of_devices(const std::vector<std::string>& specs) {
  Config config;
  std::string errors;
  for (const std::string& spec : specs) {
    auto device = parse_device(spec);
    if (device) {
      config.devices.push_back(std::move(*device));
    } else {
      errors += (errors.empty() ? "" : "\n") + device.error().message;
    }
  }
  if (!errors.empty()) return fail(Errc::invalid_argument, std::move(errors));
  fill_defaults(config);
  return config;
}

}  // namespace

void PoolOptions::add_to(CLI::App& command) {
  command.add_option("--config", config_path_, "the pool's configuration (docs/config.md)")
      ->type_name("FILE");
  command
      .add_option("--device", devices_,
                  "a device of the pool, instead of --config; once for each: memory,size=2GiB or "
                  "file,path=PATH,size=4GiB,limit_read=600MB/s, with the keys of a [[device]]")
      ->type_name("SPEC")
      ->type_size(1)
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  command.add_option("--placement", placement_, "bandwidth, link or equal, whatever the configuration says")
      ->type_name("RULE");
  command.add_option("--verify", verify_, "storage, always or never, whatever the configuration says")
      ->type_name("RULE");
}

Result<Config> PoolOptions::config() const {
  if (config_path_.empty() == devices_.empty()) {
    return fail(Errc::invalid_argument,
                config_path_.empty()
                    ? "no pool is named; give --config FILE, or --device SPEC for each device"
                    : "--config and --device exclude each other");
  }
  auto config = config_path_.empty() ? of_devices(devices_) : load_config(config_path_);
  if (!config) return config;
  if (!placement_.empty()) {
    const auto rule = parse_placement(placement_);
    if (!rule) return fail(rule.error().code, "--placement " + rule.error().message);
    config->placement = *rule;
  }
  if (!verify_.empty()) {
    const auto rule = parse_verify(verify_);
    if (!rule) return fail(rule.error().code, "--verify " + rule.error().message);
    config->verify = *rule;
  }
  if (const Status status = validate(*config); !status) return tl::unexpected(status.error());
  return config;
}

Result<Geometry> find_geometry(const Config& config, const std::string& model) {
  const auto ns = std::ranges::find(config.namespaces, model, &NamespaceConfig::name);
  if (ns != config.namespaces.end()) return ns->geometry;
  auto preset = preset_geometry(model);
  if (!preset) return fail(Errc::invalid_argument, "--model: " + preset.error().message);
  return preset;
}

}  // namespace kvpool
