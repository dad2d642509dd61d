// kvpool device list: the NVMe drives of this machine, what is on them, and how they are. Nothing is written.

#include <fmt/format.h>

#include "apps/command.h"
#include "base/units.h"
#include "io/nvme/drive_list.h"

namespace kvpool {
namespace {

using nlohmann::ordered_json;

ordered_json text_or_null(const std::string& text) {
  return text.empty() ? ordered_json(nullptr) : ordered_json(text);
}

ordered_json to_json(const NvmeNamespaceInfo& info) {
  return {{"path", info.path},
          {"block_path", info.block_path},
          {"size_bytes", info.size_bytes},
          {"block_bytes", info.block_bytes},
          {"use", text_or_null(info.use)},
          {"holds", text_or_null(info.holds)},
          {"unknown_because", text_or_null(info.unknown)}};
}

ordered_json to_json(const NvmeDriveInfo& drive) {
  ordered_json namespaces = ordered_json::array();
  for (const NvmeNamespaceInfo& info : drive.namespaces) namespaces.push_back(to_json(info));
  ordered_json health = nullptr;
  if (drive.smart) {
    health = {{"temperature_celsius", drive.smart->temperature_celsius},
              {"spare_percent", drive.smart->spare_percent},
              {"spare_threshold_percent", drive.smart->spare_threshold_percent},
              {"used_percent", drive.smart->used_percent},
              {"media_errors", drive.smart->media_errors},
              {"critical_warning", drive.smart->critical_warning}};
  }
  return {{"controller", text_or_null(drive.controller)},
          {"model", text_or_null(drive.model)},
          {"serial", text_or_null(drive.serial)},
          {"firmware", text_or_null(drive.firmware)},
          {"address", text_or_null(drive.address)},
          {"transport", text_or_null(drive.transport)},
          {"driver", text_or_null(drive.driver)},
          {"numa_node", drive.numa_node},
          {"namespaces", std::move(namespaces)},
          {"health", std::move(health)},
          {"no_health_because", text_or_null(drive.no_smart)}};
}

std::string health_of(const NvmeDriveInfo& drive) {
  if (!drive.smart) return "health not known: " + drive.no_smart;
  const NvmeSmart& smart = *drive.smart;
  return fmt::format("{} degrees, {}% worn, {}% spare (warns below {}%), {} media errors{}",
                     smart.temperature_celsius, smart.used_percent, smart.spare_percent,
                     smart.spare_threshold_percent, smart.media_errors,
                     smart.critical_warning != 0 ? ", IT WARNS" : "");
}

std::string state_of(const NvmeNamespaceInfo& info) {
  std::string state = info.holds.empty() ? "contents not known: " + info.unknown : "holds " + info.holds;
  if (!info.use.empty()) state += "; " + info.use;
  return state;
}

void print_drive(const NvmeDriveInfo& drive) {
  if (drive.controller.empty()) {
    fmt::print("{}: an NVMe controller of {}\n", drive.address,
               drive.driver.empty() ? "no driver" : "the driver " + drive.driver);
  } else {
    fmt::print("{}: {}, serial {}, {} {}{}\n", drive.controller, drive.model, drive.serial, drive.transport,
               drive.address, drive.numa_node >= 0 ? fmt::format(", NUMA node {}", drive.numa_node) : "");
    fmt::print("  {}\n", health_of(drive));
  }
  for (const NvmeNamespaceInfo& info : drive.namespaces) {
    fmt::print("  {}  {} in blocks of {}, {}\n", info.path, format_bytes(info.size_bytes), info.block_bytes,
               state_of(info));
  }
}

int list(const Tool& tool) {
  const std::vector<NvmeDriveInfo> drives = list_nvme_drives();
  if (tool.json()) {
    ordered_json all = ordered_json::array();
    for (const NvmeDriveInfo& drive : drives) all.push_back(to_json(drive));
    print_json({{"drives", std::move(all)}});
    return exit_good;
  }
  for (const NvmeDriveInfo& drive : drives) print_drive(drive);
  if (drives.empty()) fmt::print("this machine has no NVMe drive\n");
  return exit_good;
}

}  // namespace

void add_device(Tool& tool) {
  CLI::App* group = tool.group("device", "the drives of this machine");
  CLI::App* lists = group->add_subcommand("list", "NVMe drives, what is on them, and how they are");
  tool.on(lists, [&tool] { return list(tool); });
}

}  // namespace kvpool
