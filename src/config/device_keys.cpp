#include <fmt/format.h>

#include <array>
#include <cmath>

#include "base/ids.h"
#include "base/units.h"
#include "config/keys.h"
#include "config/spdk_address.h"

namespace kvpool {
namespace {

constexpr std::array<std::string_view, 6> kind_names = {"memory", "file", "null", "sim", "nvme", "spdk"};
constexpr std::string_view kinds_allowed = "memory, file, nvme, spdk, null, sim";
constexpr uint64_t size_bytes_min = 1ULL << 20;  // one slab
constexpr uint64_t size_bytes_max = 1ULL << 50;
constexpr uint64_t size_alignment_bytes = 4096;
constexpr size_t device_name_length_max = 63;  // the C API's kvpool_device_stats has room for it
constexpr size_t path_length_max = 4095;

std::string set_kind(DeviceConfig& device, const Value& value) {
  const auto read = read_choice(value, kind_names);
  if (!read) return read.error();
  device.kind = static_cast<DeviceKind>(*read);
  return {};
}

std::string check_name(const DeviceConfig& device) {
  const auto good = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
  };
  if (device.name.empty()) return "it is empty";
  if (device.name.size() > device_name_length_max) return "it is too long";
  return std::ranges::all_of(device.name, good) ? "" : "it holds a character that is not allowed";
}

std::string check_size(const DeviceConfig& device) {
  const uint64_t size = device.size_bytes;
  if (size == 0) return "it is 0 or missing";
  if (size < size_bytes_min) return fmt::format("{} bytes are below one slab of 1 MiB", size);
  if (size > size_bytes_max) return format_bytes(size) + " is too large";
  if (size % size_alignment_bytes == 0) return {};
  const uint64_t below = size / size_alignment_bytes * size_alignment_bytes;
  return fmt::format("{} bytes are not a multiple of {}; the nearest are {} and {}", size,
                     size_alignment_bytes, below, below + size_alignment_bytes);
}

std::string check_path(const DeviceConfig& device) {
  if (!is_storage(device.kind)) {
    return device.path.empty() ? "" : fmt::format("a {} device has none", to_string(device.kind));
  }
  if (device.path.empty()) return "it is missing";
  if (device.path.size() > path_length_max) return "it is too long";
  if (device.path.find('\0') != std::string::npos) return "it holds a zero byte";
  if (device.kind == DeviceKind::spdk) {
    const auto address = parse_spdk_address(device.path);
    return address ? "" : address.error().message;
  }
  if (device.path.back() == '/') return "it names a folder";
  return is_utf8(device.path) ? "" : "it is not UTF-8";
}

// A page size and numbers up to what Linux is built for (CONFIG_NODES_SHIFT is at most 10).
constexpr int numa_node_max = 1023;

template <auto member>
std::string check_limit(const DeviceConfig& device) {
  return check_optional_rate(device.*member);
}

template <auto member>
std::string check_rate(const DeviceConfig& device) {
  const double rate = device.*member;
  if (!std::isfinite(rate) || rate < 1) return "it is 0";
  return rate <= static_cast<double>(rate_max) ? "" : "it is too large";
}

std::string check_timeout(const DeviceConfig& device) {
  constexpr Nanos timeout_min = std::chrono::milliseconds(100);
  if (device.io_timeout < timeout_min) return "it is too short";
  return device.io_timeout <= std::chrono::minutes(1) ? "" : "it is too long";
}

std::string check_latency(const DeviceConfig& device) {
  if (device.sim_latency < Nanos(0)) return "it is negative";
  return device.sim_latency <= std::chrono::minutes(1) ? "" : "it is too long";
}

template <auto member>
std::string get_limit(const DeviceConfig& device) {
  return device.*member ? toml_rate(*(device.*member)) : "";
}

template <auto member>
std::string get_rate(const DeviceConfig& device) {
  return toml_rate(static_cast<uint64_t>(std::llround(device.*member)));
}

template <auto member>
std::string set_flag(DeviceConfig& device, const Value& value) {
  const auto read = read_flag(value);
  if (!read) return read.error();
  device.*member = *read;
  return {};
}

template <auto member>
std::string get_flag(const DeviceConfig& device) {
  return device.*member ? "true" : "false";
}

constexpr uint8_t memory = kind_bit(DeviceKind::memory);
constexpr uint8_t spdk = kind_bit(DeviceKind::spdk);
constexpr uint8_t storage = kind_bit(DeviceKind::file) | kind_bit(DeviceKind::nvme) | spdk;
constexpr uint8_t simulated = kind_bit(DeviceKind::null) | kind_bit(DeviceKind::sim);

using D = DeviceConfig;
constexpr std::array<Key<D>, 14> device_key_list = {{
    {"kind", kinds_allowed, set_kind, nullptr, [](const D& d) { return toml_text(to_string(d.kind)); }},
    {"name", "1 to 63 of the characters A-Z a-z 0-9 . _ -, unique", set_text<&D::name>, check_name,
     get_text<&D::name>},
    {"size", "a size such as \"4GiB\": a multiple of 4096 bytes, from 1 MiB to 1024 TiB",
     set_bytes<&D::size_bytes>, check_size, get_bytes<&D::size_bytes>},
    {"numa_node", "a whole number from -1 (the process's own policy) to 1023", set_number<&D::numa_node>,
     check_range<&D::numa_node, -1, numa_node_max>, get_number<&D::numa_node>, memory},
    {"path",
     "the path of a file, a block device, or a namespace such as /dev/ng0n1, or an address such as "
     "\"trtype:PCIe traddr:0000:01:00.0\", in UTF-8, at most 4095 bytes",
     set_text<&D::path>, check_path, get_text<&D::path>, storage},
    {"queue_depth", "a whole number from 1 to 1024", set_number<&D::queue_depth>,
     check_range<&D::queue_depth, 1, 1024>, get_number<&D::queue_depth>,
     static_cast<uint8_t>(storage | simulated)},
    {"io_timeout", "a time such as \"5s\", from 100ms to 60s", set_duration<&D::io_timeout>, check_timeout,
     get_duration<&D::io_timeout>, spdk},
    {"poll_slack_percent", "a whole number from 0 (look all the time) to 100",
     set_number<&D::poll_slack_percent>, check_range<&D::poll_slack_percent, 0, 100>,
     get_number<&D::poll_slack_percent>, static_cast<uint8_t>(spdk | kind_bit(DeviceKind::nvme))},
    {"discard", "true, false", set_flag<&D::discard>, nullptr, get_flag<&D::discard>,
     kind_bit(DeviceKind::nvme)},
    {"limit_read", rate_allowed, set_rate<&D::limit_read_bytes_per_second>,
     check_limit<&D::limit_read_bytes_per_second>, get_limit<&D::limit_read_bytes_per_second>},
    {"limit_write", rate_allowed, set_rate<&D::limit_write_bytes_per_second>,
     check_limit<&D::limit_write_bytes_per_second>, get_limit<&D::limit_write_bytes_per_second>},
    {"sim_read", rate_allowed, set_rate<&D::sim_read_bytes_per_second>,
     check_rate<&D::sim_read_bytes_per_second>, get_rate<&D::sim_read_bytes_per_second>, simulated},
    {"sim_write", rate_allowed, set_rate<&D::sim_write_bytes_per_second>,
     check_rate<&D::sim_write_bytes_per_second>, get_rate<&D::sim_write_bytes_per_second>, simulated},
    {"sim_latency", "a time such as \"100us\", from 0 to 60s", set_duration<&D::sim_latency>, check_latency,
     get_duration<&D::sim_latency>, simulated},
}};

std::string kinds_of(uint8_t kinds) {
  std::string out;
  for (size_t i = 0; i < kind_names.size(); ++i) {
    if ((kinds & (1U << i)) == 0) continue;
    out += (out.empty() ? "" : ", ") + std::string(kind_names[i]);
  }
  return out;
}

}  // namespace

std::span<const Key<DeviceConfig>> device_keys() { return device_key_list; }

std::string_view to_string(DeviceKind kind) { return kind_names[static_cast<size_t>(kind)]; }

void read_device(std::span<const Entry> entries, const std::string& path, DeviceConfig& device,
                 Problems& problems) {
  const size_t problems_before = problems.size();
  read_entries(device_keys(), entries, path, device, problems);
  const auto has = [&](std::string_view name) {
    return std::ranges::any_of(entries, [&](const Entry& entry) { return entry.key == name; });
  };
  const std::string prefix = path.empty() ? "" : path + ".";
  if (!has("kind")) {
    problems.push_back({prefix + "kind", "it is missing", std::string(kinds_allowed), 0});
    return;
  }
  // A kind that could not be read says nothing about the other keys.
  if (problems.size() > problems_before &&
      std::any_of(problems.begin() + problems_before, problems.end(),
                  [&](const Problem& p) { return p.key == prefix + "kind"; })) {
    return;
  }
  for (const Entry& entry : entries) {
    const auto key =
        std::ranges::find(device_key_list, std::string_view(entry.key), &Key<DeviceConfig>::name);
    if (key == device_key_list.end() || (key->kinds & kind_bit(device.kind)) != 0) continue;
    problems.push_back(
        {prefix + entry.key, fmt::format("a {} device has no such key", to_string(device.kind)),
         fmt::format("'{}' in devices of kind {}", key->name, kinds_of(key->kinds)), entry.line});
  }
}

}  // namespace kvpool
