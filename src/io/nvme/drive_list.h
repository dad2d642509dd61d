// The NVMe drives of this machine, and what is on them. Nothing is written; what the user may not open is
// left unknown. Any thread; blocks.

#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "io/nvme/smart.h"

namespace kvpool {

struct NvmeNamespaceInfo {
  std::string path;        // "/dev/ng0n1"
  std::string block_path;  // "/dev/nvme0n1"
  uint64_t size_bytes = 0;
  uint32_t block_bytes = 0;
  std::string use;  // what the kernel does with it, as kernel_use_of(), or that a pool has it open; or empty
  std::string holds;    // "nothing", "a pool", "ext4", "gpt"; empty: not known, see `unknown`
  std::string unknown;  // why not
};

struct NvmeDriveInfo {
  std::string controller;  // "nvme0"; empty where the kernel's nvme driver has it not
  std::string model;
  std::string serial;
  std::string firmware;
  std::string address;    // "0000:01:00.0", or that of a remote drive
  std::string transport;  // "pcie", "tcp"; empty: not known
  std::string driver;     // of the PCI function: "nvme", "vfio-pci", or empty for none
  int numa_node = -1;
  std::vector<NvmeNamespaceInfo> namespaces;
  std::optional<NvmeSmart> smart;
  std::string no_smart;  // why not
};

// By controller, then those that another driver has, by address. `sys`: where sysfs is mounted.
[[nodiscard]] std::vector<NvmeDriveInfo> list_nvme_drives(const std::filesystem::path& sys = "/sys");

}  // namespace kvpool
