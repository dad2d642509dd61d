// kvpool config check FILE; kvpool config show.

#include <fmt/format.h>

#include <chrono>
#include <memory>

#include "apps/command.h"
#include "apps/pool_options.h"
#include "config/config.h"

namespace kvpool {
namespace {

using nlohmann::ordered_json;

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    lines.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return lines;
}

int check(const Tool& tool, const std::string& path) {
  const auto config = load_config(path);
  if (!config) {
    if (tool.json()) {
      print_json({{"file", path}, {"valid", false}, {"errors", lines_of(config.error().message)}});
    }
    return print_error(config.error().message);
  }
  if (tool.json()) {
    print_json({{"file", path}, {"valid", true}, {"errors", ordered_json::array()}});
  } else {
    fmt::print("{}: OK, {} devices, {} namespaces\n", path, config->devices.size(),
               config->namespaces.size());
    if (config->placement == PlacementRule::link && !config->link_bytes_per_second) {
      fmt::print(
          "placement \"link\" without a pool.link: as \"bandwidth\", unless the profile knows a link\n");
    }
  }
  return exit_good;
}

double microseconds(Nanos duration) { return std::chrono::duration<double, std::micro>(duration).count(); }

ordered_json optional(const std::optional<uint64_t>& value) {
  return value ? ordered_json(*value) : ordered_json(nullptr);
}

ordered_json to_json(const DeviceConfig& device) {
  ordered_json out = {{"name", device.name},
                      {"kind", to_string(device.kind)},
                      {"size_bytes", device.size_bytes},
                      {"limit_read_bytes_per_second", optional(device.limit_read_bytes_per_second)},
                      {"limit_write_bytes_per_second", optional(device.limit_write_bytes_per_second)}};
  if (device.kind == DeviceKind::memory) {
    out["numa_node"] = device.numa_node;
    return out;
  }
  out["queue_depth"] = device.queue_depth;
  if (is_storage(device.kind)) {
    out["path"] = device.path;
    if (device.kind == DeviceKind::nvme) out["discard"] = device.discard;
    if (device.kind == DeviceKind::spdk) out["io_timeout_us"] = microseconds(device.io_timeout);
    if (is_passthrough(device.kind)) out["poll_slack_percent"] = device.poll_slack_percent;
    return out;
  }
  out["sim_read_bytes_per_second"] = device.sim_read_bytes_per_second;
  out["sim_write_bytes_per_second"] = device.sim_write_bytes_per_second;
  out["sim_latency_us"] = microseconds(device.sim_latency);
  return out;
}

ordered_json to_json(const NamespaceConfig& ns) {
  ordered_json window = ordered_json::array();
  for (uint32_t segment = 0; segment < ns.geometry.segments(); ++segment) {
    if (ns.geometry.is_window(segment)) window.push_back(segment);
  }
  return {{"name", ns.name},
          {"geometry", ns.geometry.name},
          {"block_tokens", ns.geometry.block_tokens},
          {"block_bytes", ns.geometry.block_bytes()},
          {"segment_bytes", ns.geometry.segment_bytes},
          {"window", std::move(window)},
          {"flat", ns.flat}};
}

ordered_json to_json(const LimitsConfig& limits) {
  return {{"consumers", limits.consumers},
          {"tickets", limits.tickets},
          {"pins", limits.pins},
          {"blocks_per_request", limits.blocks_per_request},
          {"segments_per_request", limits.segments_per_request},
          {"blocks", limits.blocks},
          {"deadline_us", microseconds(limits.deadline)},
          {"stall_warning_us", microseconds(limits.stall_warning)}};
}

int show(const Tool& tool, const PoolOptions& options) {
  const auto config = options.config();
  if (!config) return print_error(config.error().message);
  if (!tool.json()) {
    fmt::print("{}", to_toml(*config));
    return exit_good;
  }
  ordered_json devices = ordered_json::array();
  for (const DeviceConfig& device : config->devices) devices.push_back(to_json(device));
  ordered_json namespaces = ordered_json::array();
  for (const NamespaceConfig& ns : config->namespaces) namespaces.push_back(to_json(ns));
  print_json({{"file", config->file},
              {"placement", to_string(config->placement)},
              {"link_bytes_per_second", optional(config->link_bytes_per_second)},
              {"residency", to_string(config->residency)},
              {"verify", to_string(config->verify)},
              {"staging_bytes", config->staging_bytes},
              {"buffer_bytes", config->buffer_bytes},
              {"transfer_threads", config->transfer_threads},
              {"profile", config->profile_path},
              {"devices", std::move(devices)},
              {"namespaces", std::move(namespaces)},
              {"limits", to_json(config->limits)}});
  return exit_good;
}

}  // namespace

void add_config(Tool& tool) {
  CLI::App* group = tool.group("config", "check a configuration, or show it with its defaults");

  CLI::App* checks = group->add_subcommand("check", "say whether FILE is good, or all that is wrong with it");
  auto path = std::make_shared<std::string>();
  checks->add_option("FILE", *path, "a kvpool.toml")->required();
  tool.on(checks, [&tool, path] { return check(tool, *path); });

  CLI::App* shows =
      group->add_subcommand("show", "the whole configuration, every default filled in, as TOML");
  auto options = std::make_shared<PoolOptions>();
  options->add_to(*shows);
  tool.on(shows, [&tool, options] { return show(tool, *options); });
}

}  // namespace kvpool
