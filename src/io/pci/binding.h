// NVMe controllers between the kernel's nvme driver and vfio-pci, from which drivers in user space have them.
// First a plan, which changes nothing; then its steps.
//
// Thread: any; blocks on drives and drivers. Failure: a Result with one line for each drive that is refused:
// what is wrong and what to do. A drive that is refused stays as it was.

#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "io/pci/host.h"

namespace kvpool {

inline constexpr const char* kernel_driver = "nvme";
inline constexpr const char* user_driver = "vfio-pci";

struct DriveBinding {
  std::string address;     // "0000:01:00.0"
  std::string controller;  // "nvme0"; empty where another driver has it
  std::string from;        // the driver that has it; empty: none
  std::string to;
  int numa_node = -1;
  std::string iommu_group;           // its number; empty: none
  std::vector<std::string> devices;  // block devices of its namespaces
  std::vector<HostStep> steps;       // none where it is bound to `to` already
};

// `names`: addresses, controllers ("nvme0"), or namespaces ("nvme0n1", "ng0n1"), with or without /dev/.
// Each drive that is to leave the kernel must be blank or hold a pool that is not open, in all its
// namespaces (docs/format.md), and the IOMMU must be able to keep it apart.
[[nodiscard]] Result<std::vector<DriveBinding>> plan_prepare(const Host& host,
                                                             const std::vector<std::string>& names);
[[nodiscard]] Result<std::vector<DriveBinding>> plan_release(const Host& host,
                                                             const std::vector<std::string>& names);

// One drive's steps, and that they did what they should. Its block devices are held meanwhile, so that nobody
// begins to use them. After a step that failed it is given back to the driver that had it, as far as that
// goes; the error says who has it now.
[[nodiscard]] Status bind_drive(const Host& host, const DriveBinding& drive);

}  // namespace kvpool
