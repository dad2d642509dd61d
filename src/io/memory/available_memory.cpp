#include "io/memory/available_memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <optional>
#include <sstream>
#include <string_view>

namespace kvpool {
namespace {

constexpr uint64_t unknown = UINT64_MAX;

std::optional<std::string> read_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line)) return std::nullopt;
  return line;
}

std::optional<uint64_t> read_number(const std::string& path) {
  const auto line = read_line(path);
  uint64_t value = 0;
  if (!line || std::from_chars(line->data(), line->data() + line->size(), value).ec != std::errc{}) {
    return std::nullopt;
  }
  return value;
}

// The number behind `key` in a file of "key number ..." lines; node files have words before the key.
std::optional<uint64_t> read_field(const std::string& path, std::string_view key) {
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    std::istringstream words(line);
    std::string word;
    while (words >> word) {
      uint64_t value = 0;
      if (word == key && words >> value) return value;
    }
  }
  return std::nullopt;
}

uint64_t group_left(uint64_t limit, uint64_t used, uint64_t reclaimable) {
  const uint64_t held = used - std::min(used, reclaimable);
  return limit - std::min(limit, held);
}

// Version 2: every group from ours up to the root may bound.
uint64_t group_v2_left(std::string path) {
  uint64_t least = unknown;
  while (true) {
    const std::string folder = "/sys/fs/cgroup" + path;
    const auto limit = read_number(folder + "/memory.max");
    const auto used = read_number(folder + "/memory.current");
    if (limit && used) {
      const auto reclaimable = read_field(folder + "/memory.stat", "inactive_file");
      least = std::min(least, group_left(*limit, *used, reclaimable.value_or(0)));
    }
    const size_t slash = path.rfind('/');
    if (path.empty() || slash == std::string::npos) return least;
    path.resize(slash);
  }
}

uint64_t group_v1_left() {
  const std::string folder = "/sys/fs/cgroup/memory";
  const auto limit = read_number(folder + "/memory.limit_in_bytes");
  const auto used = read_number(folder + "/memory.usage_in_bytes");
  if (!limit || !used) return unknown;
  const auto reclaimable = read_field(folder + "/memory.stat", "total_inactive_file");
  return group_left(*limit, *used, reclaimable.value_or(0));
}

uint64_t groups_left() {
  const auto own = read_line("/proc/self/cgroup");
  uint64_t least = group_v1_left();
  if (own && own->starts_with("0::")) least = std::min(least, group_v2_left(own->substr(3)));
  return least;
}

}  // namespace

uint64_t available_memory_bytes() {
  const auto machine_kib = read_field("/proc/meminfo", "MemAvailable:");
  const uint64_t machine = machine_kib ? *machine_kib * 1024 : unknown;
  return std::min(machine, groups_left());
}

uint64_t available_memory_bytes_of_node(int numa_node) {
  const std::string path = fmt::format("/sys/devices/system/node/node{}/meminfo", numa_node);
  const auto free_kib = read_field(path, "MemFree:");
  if (!free_kib) return unknown;
  const uint64_t cache_kib = read_field(path, "Inactive(file):").value_or(0);
  return (*free_kib + cache_kib) * 1024;
}

uint64_t free_hugetlb_bytes(int numa_node) {
  const std::string folder =
      numa_node < 0 ? "/sys/kernel/mm/hugepages/hugepages-2048kB"
                    : fmt::format("/sys/devices/system/node/node{}/hugepages/hugepages-2048kB", numa_node);
  const uint64_t free = read_number(folder + "/free_hugepages").value_or(0);
  // Reservations are counted for the machine alone.
  const uint64_t reserved = read_number(folder + "/resv_hugepages").value_or(0);
  return (free - std::min(free, reserved)) * (2ULL << 20);
}

std::vector<int> numa_nodes() {
  const auto line = read_line("/sys/devices/system/node/has_memory");
  std::vector<int> nodes = line ? parse_cpu_list(*line) : std::vector<int>{};
  if (nodes.empty()) nodes.push_back(0);
  return nodes;
}

std::vector<int> parse_cpu_list(const std::string& text) {
  std::vector<int> numbers;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (at < end) {
    int first = 0;
    auto parsed = std::from_chars(at, end, first);
    if (parsed.ec != std::errc{}) break;
    int last = first;
    if (parsed.ptr < end && *parsed.ptr == '-') {
      parsed = std::from_chars(parsed.ptr + 1, end, last);
      if (parsed.ec != std::errc{}) break;
    }
    for (int number = first; number <= last; ++number) numbers.push_back(number);
    if (parsed.ptr == end || *parsed.ptr != ',') break;
    at = parsed.ptr + 1;
  }
  return numbers;
}

}  // namespace kvpool
