#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <filesystem>
#include <set>

#include "base/units.h"
#include "config/config.h"
#include "config/keys.h"

namespace kvpool {
namespace {

constexpr size_t namespaces_max = 1024;
// A segment under way is known by 32 bits.
constexpr uint64_t parts_max = UINT32_MAX;

std::string normal(const std::string& path) {
  return std::filesystem::path(path).lexically_normal().string();
}

uint64_t largest_segment(const Config& config) {
  uint64_t largest = 0;
  for (const NamespaceConfig& ns : config.namespaces) {
    for (const uint32_t bytes : ns.geometry.segment_bytes) largest = std::max<uint64_t>(largest, bytes);
  }
  return largest;
}

void check_devices(const Config& config, Problems& problems) {
  if (config.devices.empty()) {
    problems.push_back({"device", "there is none", fmt::format("1 to {} [[device]]", devices_max), 0});
  }
  if (config.devices.size() > devices_max) {
    problems.push_back({"device", fmt::format("there are {}", config.devices.size()),
                        fmt::format("1 to {} [[device]]", devices_max), 0});
  }
  std::set<std::string> names;
  std::set<std::string> paths;
  if (!config.profile_path.empty()) paths.insert(normal(config.profile_path));
  if (!config.file.empty() && !paths.insert(normal(config.file)).second) {
    problems.push_back({"pool.profile", fmt::format("'{}' is the configuration", config.profile_path),
                        "a path of its own", 0});
  }
  const uint64_t segment = largest_segment(config);
  for (size_t i = 0; i < config.devices.size(); ++i) {
    const DeviceConfig& device = config.devices[i];
    const std::string path = fmt::format("device[{}]", i);
    const size_t problems_before = problems.size();
    check_keys(device_keys(), device, path, problems);
    if (problems.size() > problems_before) continue;
    if (!names.insert(device.name).second) {
      problems.push_back({path + ".name", fmt::format("'{}' is another device's name", device.name),
                          "a name of its own for each device", 0});
    }
    if (is_storage(device.kind) && !paths.insert(normal(device.path)).second) {
      problems.push_back(
          {path + ".path",
           fmt::format("'{}' is another device's, the profile or the configuration", device.path),
           "a path of its own for each device", 0});
    }
    if (device.size_bytes < segment) {
      problems.push_back({path + ".size",
                          fmt::format("{} are below the largest segment, {}", format_bytes(device.size_bytes),
                                      format_bytes(segment)),
                          "room for one segment of each namespace at least", 0});
    }
  }
}

void check_namespaces(const Config& config, Problems& problems) {
  if (config.namespaces.size() > namespaces_max) {
    problems.push_back({"namespace", fmt::format("there are {}", config.namespaces.size()),
                        fmt::format("at most {} [[namespace]]", namespaces_max), 0});
  }
  uint64_t pool_bytes = 0;
  for (const DeviceConfig& device : config.devices) pool_bytes += device.size_bytes;
  std::set<std::string> names;
  for (size_t i = 0; i < config.namespaces.size(); ++i) {
    const NamespaceConfig& ns = config.namespaces[i];
    const std::string path = fmt::format("namespace[{}]", i);
    std::string wrong = check_namespace_name(ns.name);
    if (!wrong.empty()) {
      problems.push_back({path + ".name", std::move(wrong),
                          "a text of 1 to 255 bytes without control characters, unique", 0});
    } else if (!names.insert(ns.name).second) {
      problems.push_back({path + ".name", fmt::format("'{}' is another namespace's name", ns.name),
                          "a name of its own for each namespace", 0});
    }
    if (const Status shape = validate(ns.geometry); !shape) {
      problems.push_back({path, shape.error().message, "", 0});
    } else if (ns.geometry.block_bytes() > pool_bytes) {
      problems.push_back({path,
                          fmt::format("a block of {} is more than all devices have, {}",
                                      format_bytes(ns.geometry.block_bytes()), format_bytes(pool_bytes)),
                          "room for one block of each namespace at least", 0});
    }
  }
}

void check_limits(const Config& config, Problems& problems) {
  check_keys(limits_keys(), config.limits, "limits", problems);
  const uint64_t parts = config.limits.tickets * std::bit_ceil(uint64_t{config.limits.segments_per_request});
  if (parts > parts_max) {
    problems.push_back(
        {"limits.segments_per_request",
         fmt::format("with {} tickets that is {} segments under way, the power of two above it counting",
                     config.limits.tickets, parts),
         fmt::format("at most {} over all tickets", parts_max), 0});
  }
  for (const NamespaceConfig& ns : config.namespaces) {
    if (ns.geometry.segments() <= config.limits.segments_per_request) continue;
    problems.push_back({"limits.segments_per_request",
                        fmt::format("{} is below one block of '{}', {} segments",
                                    config.limits.segments_per_request, ns.name, ns.geometry.segments()),
                        "the segments of the largest block at least", 0});
  }
}

std::string measured_as(const DeviceConfig& device) {
  std::string text(to_string(device.kind));
  if (device.numa_node >= 0) text += fmt::format(" of node {}", device.numa_node);
  if (!device.path.empty()) text += " " + device.path;
  if (device.kind == DeviceKind::sim) {
    text += fmt::format(" {} {} {} ns", device.sim_read_bytes_per_second, device.sim_write_bytes_per_second,
                        device.sim_latency.count());
  }
  if (device.queue_depth != DeviceConfig{}.queue_depth) {
    text += fmt::format(", queue_depth {}", device.queue_depth);
  }
  if (const auto cap = device.limit_read_bytes_per_second) text += fmt::format(", limit_read {} B/s", *cap);
  if (const auto cap = device.limit_write_bytes_per_second) text += fmt::format(", limit_write {} B/s", *cap);
  return text;
}

}  // namespace

Problems find_problems(const Config& config) {
  Problems problems;
  check_keys(pool_keys(), config, "pool", problems);
  check_devices(config, problems);
  check_namespaces(config, problems);
  check_limits(config, problems);
  return problems;
}

Status validate(const Config& config) {
  const Problems problems = find_problems(config);
  if (problems.empty()) return {};
  return fail_with(config.file, problems);
}

std::vector<std::string> Config::device_names() const {
  std::vector<std::string> names;
  for (const DeviceConfig& device : devices) names.push_back(device.name);
  return names;
}

double Config::in_place_bytes_per_second(uint64_t link) const {
  const auto shares_it = [](const DeviceConfig& device) {
    return device.kind == DeviceKind::memory && !device.limit_read_bytes_per_second;
  };
  const auto sharers = std::ranges::count_if(devices, shares_it);
  return static_cast<double>(link) / static_cast<double>(std::max<int64_t>(sharers, 1));
}

std::vector<DeviceProfile> Config::unmeasured() const {
  std::vector<DeviceProfile> all;
  for (const DeviceConfig& device : devices) {
    all.push_back({.name = device.name, .measured_as = measured_as(device)});
  }
  return all;
}

void fill_defaults(Config& config) {
  std::set<std::string> taken;
  for (const DeviceConfig& device : config.devices) taken.insert(device.name);
  for (DeviceConfig& device : config.devices) {
    for (uint32_t number = 0; device.name.empty(); ++number) {
      const std::string name = fmt::format("{}{}", to_string(device.kind), number);
      if (taken.insert(name).second) device.name = name;
    }
  }
  if (config.profile_path.empty() && !config.file.empty()) {
    config.profile_path = config.file + ".profile.json";
  }
}

}  // namespace kvpool
