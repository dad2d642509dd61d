#include "io/pci/binding.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <set>
#include <system_error>
#include <utility>

#include "io/block/block_device.h"
#include "io/block/sysfs.h"
#include "io/nvme/drive_list.h"

namespace kvpool {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view class_nvme = "0x010802";
constexpr std::string_view class_bridge = "0x0604";

fs::path function_of(const Host& host, const std::string& address) {
  return host.sys / "bus/pci/devices" / address;
}

std::string link_name(const fs::path& link) {
  std::error_code error;
  const fs::path target = fs::read_symlink(link, error);
  return error ? std::string() : target.filename().string();
}

std::string driver_of(const Host& host, const std::string& address) {
  return link_name(function_of(host, address) / "driver");
}

std::string named(const std::string& driver) { return driver.empty() ? "no driver" : driver; }

// The steps from the driver that has the drive to another.
std::vector<HostStep> steps_to(const Host& host, const std::string& address, const std::string& target) {
  const fs::path bus = host.sys / "bus/pci";
  const std::string current = driver_of(host, address);
  std::vector<HostStep> steps;
  if (!has_pci_driver(host, target)) steps.push_back({.text = "modprobe " + target});
  steps.push_back({(bus / "devices" / address / "driver_override").string(),
                   target == kernel_driver ? std::string() : target});
  if (current == target) return steps;
  if (!current.empty()) steps.push_back({(bus / "drivers" / current / "unbind").string(), address});
  steps.push_back({(bus / "drivers_probe").string(), address});
  return steps;
}

// A drive by one of its names.
Result<NvmeDriveInfo> find_drive(const Host& host, const std::vector<NvmeDriveInfo>& drives,
                                 const std::string& asked) {
  const std::string name = asked.starts_with("/dev/") ? asked.substr(5) : asked;
  std::vector<const NvmeDriveInfo*> found;
  for (const NvmeDriveInfo& drive : drives) {
    if (name.empty()) break;
    const bool ns = std::ranges::any_of(drive.namespaces, [&](const NvmeNamespaceInfo& info) {
      return info.path == "/dev/" + name || info.block_path == "/dev/" + name;
    });
    if (drive.address == name || drive.address == "0000:" + name || drive.controller == name || ns) {
      found.push_back(&drive);
    }
  }
  if (found.size() > 1) {
    return fail(Errc::invalid_argument,
                fmt::format("{}: has several controllers; name one of them by its address", asked));
  }
  if (found.empty() && !name.empty() && read_line(function_of(host, name) / "class").starts_with("0x")) {
    return fail(Errc::invalid_argument,
                fmt::format("{}: is no NVMe drive (PCI class {}, not {}); `kvpool device list` shows them",
                            asked, read_line(function_of(host, name) / "class"), class_nvme));
  }
  if (found.empty() || read_line(function_of(host, found[0]->address) / "class") != class_nvme) {
    return fail(
        Errc::invalid_argument,
        fmt::format("{}: there is no such NVMe drive on PCI; `kvpool device list` shows them", asked));
  }
  return *found[0];
}

// Those of its own namespaces and, with multipath, of its subsystem's; not the paths, which are hidden.
Result<std::vector<std::string>> block_devices_of(const Host& host, const std::string& controller) {
  std::vector<std::string> devices;
  std::error_code error;
  const fs::path its = fs::canonical(host.sys / "class/nvme" / controller, error);
  for (const auto& block : fs::directory_iterator(host.sys / "block", error)) {
    std::error_code ignored;
    const fs::path owner = fs::canonical(block.path() / "device", ignored);
    if (ignored || (owner != its && !fs::exists(owner / controller, ignored))) continue;
    if (read_number(block.path() / "hidden").value_or(0) == 0) {
      devices.push_back((host.dev / block.path().filename()).string());
    }
  }
  // Where none can be seen there may be some.
  if (error) return fail_errno(error.value(), fmt::format("{}: its namespaces cannot be listed", controller));
  std::ranges::sort(devices);
  return devices;
}

// The block devices of a drive, each for this process alone.
class Claims {
 public:
  Claims() = default;
  Claims(const Claims&) = delete;
  Claims& operator=(const Claims&) = delete;
  ~Claims() { release(); }
  void release() {
    for (const int fd : fds_) close(fd);
    fds_.clear();
  }
  // All of them blank, or pools that are not open.
  [[nodiscard]] Status take(const std::vector<std::string>& devices) {
    for (const std::string& device : devices) {
      const auto fd = take_block_device(device, O_RDONLY);
      if (!fd) return tl::unexpected(fd.error());
      fds_.push_back(*fd);
      const auto whole = measure_block_device(*fd, device);
      if (!whole) return tl::unexpected(whole.error());
      if (Status free = check_contents(*whole); !free) return free;
    }
    return {};
  }

 private:
  std::vector<int> fds_;
};

// What a drive holds can be asked of the kernel's driver alone.
Status check_holds_nothing(const Host& host, const NvmeDriveInfo& drive, const DriveBinding& binding) {
  const std::string& address = binding.address;
  if (binding.from != kernel_driver) {
    return fail(Errc::invalid_argument,
                fmt::format("{}: is bound to {}, so it cannot be asked what it holds; bind it to nvme first "
                            "(kvpool device release {})",
                            address, named(binding.from), address));
  }
  const std::string state = read_line(host.sys / "class/nvme" / drive.controller / "state");
  if (state != "live") {
    return fail(Errc::unsupported, fmt::format("{}: {} is {}, so it cannot be asked what it holds; wait, or "
                                               "look at the kernel's log",
                                               address, drive.controller, state));
  }
  for (const NvmeNamespaceInfo& info : drive.namespaces) {
    if (!info.block_path.empty()) continue;
    return fail(Errc::unsupported, fmt::format("{}: {} has no block device, so it cannot be asked what it "
                                               "holds; format it anew (nvme format)",
                                               address, info.path));
  }
  Claims claims;
  if (Status free = claims.take(binding.devices); !free) {
    return fail(free.error().code, fmt::format("{}: {}", address, free.error().message));
  }
  return {};
}

Status check_iommu(const Host& host, const DriveBinding& drive, const std::set<std::string>& others) {
  const std::string& address = drive.address;
  if (drive.iommu_group.empty()) {
    if (read_line(host.sys / "module/vfio/parameters/enable_unsafe_noiommu_mode") == "Y") return {};
    return fail(Errc::unsupported,
                fmt::format("{}: has no IOMMU group; switch the IOMMU on in the firmware and the kernel "
                            "(intel_iommu=on), or take vfio's noiommu mode, in which a driver may overwrite "
                            "any memory (modprobe vfio enable_unsafe_noiommu_mode=1)",
                            address));
  }
  std::error_code error;
  for (const auto& entry :
       fs::directory_iterator(function_of(host, address) / "iommu_group/devices", error)) {
    const std::string other = entry.path().filename().string();
    const std::string driver = driver_of(host, other);
    const bool harmless = driver.empty() || driver == user_driver || driver == "pci-stub" ||
                          read_line(function_of(host, other) / "class").starts_with(class_bridge);
    if (other == address || harmless || others.contains(other)) continue;
    return fail(
        Errc::in_use,
        fmt::format("{}: shares IOMMU group {} with {}, which {} has; prepare that one too if it is a "
                    "drive, unbind it, or put the drive into another slot",
                    address, drive.iommu_group, other, driver));
  }
  if (!error) return {};
  return fail(Errc::unsupported, fmt::format("{}: its IOMMU group cannot be looked at", address));
}

// An open group would keep whoever unbinds the drive waiting.
Status check_not_driven(const Host& host, const DriveBinding& drive) {
  if (!drive.from.empty() && drive.from != user_driver) {
    return fail(Errc::invalid_argument, fmt::format("{}: is bound to {}; only drives of vfio-pci, or of no "
                                                    "driver, are released",
                                                    drive.address, drive.from));
  }
  const fs::path group = host.dev / "vfio" / link_name(function_of(host, drive.address) / "iommu_group");
  const fs::path unsafe = host.dev / "vfio" / ("noiommu-" + drive.iommu_group);
  for (const fs::path& path : {group, unsafe}) {
    const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
    if (fd < 0 && errno == EBUSY) {
      return fail(Errc::in_use, fmt::format("{}: a process has it ({} is open); end that process first",
                                            drive.address, path.string()));
    }
    if (fd >= 0) close(fd);
  }
  return {};
}

Result<std::vector<std::pair<NvmeDriveInfo, DriveBinding>>> find_drives(const Host& host,
                                                                        const std::vector<std::string>& names,
                                                                        const std::string& target,
                                                                        std::string& errors) {
  if (!host.is_root) {
    return fail(Errc::invalid_argument, "a drive's driver is changed by root alone; run this as root");
  }
  const std::vector<NvmeDriveInfo> drives = list_nvme_drives(host.sys);
  std::vector<std::pair<NvmeDriveInfo, DriveBinding>> found;
  std::set<std::string> addresses;
  for (const std::string& name : names) {
    const auto drive = find_drive(host, drives, name);
    if (!drive) {
      errors += drive.error().message + "\n";
    } else if (addresses.insert(drive->address).second) {
      DriveBinding binding{.address = drive->address,
                           .controller = drive->controller,
                           .from = driver_of(host, drive->address),
                           .to = target,
                           .numa_node = drive->numa_node,
                           .iommu_group = link_name(function_of(host, drive->address) / "iommu_group")};
      if (!drive->controller.empty()) {
        auto devices = block_devices_of(host, drive->controller);
        if (!devices) return tl::unexpected(devices.error());
        binding.devices = std::move(*devices);
      }
      found.emplace_back(*drive, std::move(binding));
    }
  }
  return found;
}

Result<std::vector<DriveBinding>> finish(std::vector<DriveBinding> plan, std::string errors) {
  if (errors.empty()) return plan;
  errors.pop_back();
  return fail(Errc::invalid_argument, std::move(errors));
}

Status carry_out(const Host& host, const std::vector<HostStep>& steps, const std::string& address,
                 const std::string& target) {
  for (const HostStep& step : steps) {
    if (Status done = host.carry_out(step); !done) return done;
  }
  const std::string driver = driver_of(host, address);
  if (driver == target) return {};
  return fail(Errc::system,
              fmt::format("after all steps {} has it; the kernel's log may say why", named(driver)));
}

}  // namespace

Result<std::vector<DriveBinding>> plan_prepare(const Host& host, const std::vector<std::string>& names) {
  std::string errors;
  auto drives = find_drives(host, names, user_driver, errors);
  if (!drives) return tl::unexpected(drives.error());
  std::set<std::string> addresses;
  for (const auto& [drive, binding] : *drives) addresses.insert(binding.address);
  if (!drives->empty() && !has_pci_driver(host, user_driver) && !can_load(host, user_driver)) {
    errors +=
        "this kernel has no module vfio-pci; install the package that has it (often linux-modules-extra)\n";
  }
  std::vector<DriveBinding> plan;
  for (auto& [drive, binding] : *drives) {
    if (binding.from != user_driver) {
      Status good = check_holds_nothing(host, drive, binding);
      if (good) good = check_iommu(host, binding, addresses);
      if (!good) errors += good.error().message + "\n";
      binding.steps = steps_to(host, binding.address, user_driver);
    }
    plan.push_back(std::move(binding));
  }
  return finish(std::move(plan), std::move(errors));
}

Result<std::vector<DriveBinding>> plan_release(const Host& host, const std::vector<std::string>& names) {
  std::string errors;
  auto drives = find_drives(host, names, kernel_driver, errors);
  if (!drives) return tl::unexpected(drives.error());
  std::vector<DriveBinding> plan;
  for (auto& [drive, binding] : *drives) {
    if (binding.from != kernel_driver) {
      if (Status good = check_not_driven(host, binding); !good) errors += good.error().message + "\n";
      binding.steps = steps_to(host, binding.address, kernel_driver);
    }
    plan.push_back(std::move(binding));
  }
  return finish(std::move(plan), std::move(errors));
}

Status bind_drive(const Host& host, const DriveBinding& drive) {
  if (drive.steps.empty()) return {};
  Claims claims;
  Status done = claims.take(drive.devices);
  if (!done) return fail(done.error().code, fmt::format("{}: {}", drive.address, done.error().message));
  done = carry_out(host, drive.steps, drive.address, drive.to);
  claims.release();
  if (done) return {};
  // Where it had no driver before, there is nobody to give it back to; whether it worked is asked below.
  if (!drive.from.empty()) {
    (void)carry_out(host, steps_to(host, drive.address, drive.from), drive.address, drive.from);
  }
  const std::string now = driver_of(host, drive.address);
  return fail(Errc::system,
              fmt::format("{}: could not be bound to {}: {}\n{}: is bound to {} now{}", drive.address,
                          drive.to, done.error().message, drive.address, named(now),
                          now == drive.from ? ", as before"
                                            : fmt::format("; `kvpool device release {}` tries to give it to "
                                                          "the kernel",
                                                          drive.address)));
}

}  // namespace kvpool
