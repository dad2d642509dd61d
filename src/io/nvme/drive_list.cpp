#include "io/nvme/drive_list.h"

#include <fcntl.h>
#include <linux/nvme_ioctl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <fstream>
#include <system_error>

#include "io/block/block_use.h"
#include "io/block/lock.h"
#include "io/block/signature.h"
#include "io/block/sysfs.h"
#include "io/pool_header.h"

namespace kvpool {
namespace {

namespace fs = std::filesystem;

constexpr uint8_t admin_opcode_get_log = 0x02;
constexpr std::string_view pci_class_nvme = "0x010802";
constexpr uint64_t sector_bytes = 512;  // in which sysfs counts, whatever the drive's blocks are

std::string error_text(int error) { return std::generic_category().message(error); }

// Without the blanks that pad what drives say, and with nothing that a terminal would obey.
std::string text_of(const fs::path& path) {
  std::string line = read_line(path);
  std::ranges::replace_if(line, [](char c) { return c < ' ' || c > '~'; }, ' ');
  line.erase(line.find_last_not_of(' ') + 1);
  return line;
}

int numa_node_of(const fs::path& device) {
  int node = -1;
  std::ifstream(device / "numa_node") >> node;
  return node;
}

struct Descriptor {
  int fd = -1;
  Descriptor(const std::string& path, int flags) : fd(open(path.c_str(), flags | O_CLOEXEC)) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd >= 0) close(fd);
  }
};

void look_inside(NvmeNamespaceInfo& info) {
  const Descriptor device(info.block_path, O_RDONLY);
  if (device.fd < 0) {
    info.unknown = error_text(errno);
    return;
  }
  PoolHeader header;
  if (pread(device.fd, &header, sizeof header, 0) == static_cast<ssize_t>(sizeof header) &&
      check_pool_header(header, info.path)) {
    info.holds = "a pool";
    if (info.use.empty() && (is_locked(info.path) || is_locked(info.block_path)))
      info.use = "is open in " + owner_of(header);
    return;
  }
  const Signature signature = find_signature(info.block_path);
  info.unknown = signature.unknown;
  if (!info.unknown.empty()) return;
  info.holds = signature.type.empty() ? "nothing that is known" : signature.type;
}

void read_smart(NvmeDriveInfo& drive) {
  const Descriptor controller("/dev/" + drive.controller, O_RDONLY);
  if (controller.fd < 0) {
    drive.no_smart = error_text(errno);
    return;
  }
  std::array<std::byte, nvme_smart_bytes> log{};
  nvme_passthru_cmd command{};
  command.opcode = admin_opcode_get_log;
  command.nsid = UINT32_MAX;  // of the whole drive
  command.addr = reinterpret_cast<uintptr_t>(log.data());
  command.data_len = nvme_smart_bytes;
  command.cdw10 = nvme_smart_log | (nvme_smart_bytes / 4 - 1) << 16;
  const int result = ioctl(controller.fd, NVME_IOCTL_ADMIN_CMD, &command);
  if (result == 0) {
    drive.smart = parse_nvme_smart(log);
  } else {
    drive.no_smart = result < 0 ? error_text(errno) : "the drive refuses";
  }
}

// The folders below `path`, by name: nvme2 before nvme10.
std::vector<fs::path> folders_of(const fs::path& path) {
  std::vector<fs::path> folders;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(path, error)) folders.push_back(entry.path());
  std::ranges::sort(folders, [](const fs::path& a, const fs::path& b) {
    const std::string x = a.filename().string();
    const std::string y = b.filename().string();
    return x.size() != y.size() ? x.size() < y.size() : x < y;
  });
  return folders;
}

// "1" of ng0n1 and of nvme2n1.
std::string instance_of(const fs::path& device) {
  const std::string name = device.filename().string();
  return name.substr(name.rfind('n') + 1);
}

// The block device of the same namespace: of one owner and one instance. Its first number may be another
// where the kernel knows multipath.
fs::path block_device_of(const fs::path& sys, const fs::path& generic, const fs::path& owner) {
  std::error_code error;
  for (const fs::path& block : folders_of(sys / "block")) {
    if (block.filename().string().starts_with("nvme") && instance_of(block) == instance_of(generic) &&
        fs::canonical(block / "device", error) == owner) {
      return block;
    }
  }
  return {};
}

// A namespace belongs to a controller, or with multipath to a subsystem, which has a link for each
// controller.
void add_namespaces(const fs::path& sys, const fs::path& controller, NvmeDriveInfo& drive) {
  std::error_code error;
  const fs::path its = fs::canonical(controller, error);
  for (const fs::path& generic : folders_of(sys / "class/nvme-generic")) {
    const fs::path owner = fs::canonical(generic / "device", error);
    if (owner != its && !fs::exists(owner / drive.controller, error)) continue;
    NvmeNamespaceInfo info{.path = "/dev/" + generic.filename().string()};
    const fs::path block = block_device_of(sys, generic, owner);
    if (block.empty()) {
      info.unknown = "it has no block device";
    } else {
      info.block_path = "/dev/" + block.filename().string();
      info.size_bytes = read_number(block / "size").value_or(0) * sector_bytes;
      info.block_bytes = static_cast<uint32_t>(read_number(block / "queue/logical_block_size").value_or(0));
      info.use = kernel_use_of(block);
      look_inside(info);
    }
    drive.namespaces.push_back(std::move(info));
  }
}

std::string driver_of(const fs::path& pci_function) {
  std::error_code error;
  const fs::path driver = fs::read_symlink(pci_function / "driver", error);
  return error ? std::string() : driver.filename().string();
}

}  // namespace

std::vector<NvmeDriveInfo> list_nvme_drives(const fs::path& sys) {
  std::vector<NvmeDriveInfo> drives;
  for (const fs::path& folder : folders_of(sys / "class/nvme")) {
    NvmeDriveInfo drive{.controller = folder.filename().string(),
                        .model = text_of(folder / "model"),
                        .serial = text_of(folder / "serial"),
                        .firmware = text_of(folder / "firmware_rev"),
                        .address = text_of(folder / "address"),
                        .transport = text_of(folder / "transport"),
                        .driver = driver_of(folder / "device"),
                        .numa_node = numa_node_of(folder / "device")};
    add_namespaces(sys, folder, drive);
    read_smart(drive);
    drives.push_back(std::move(drive));
  }
  for (const fs::path& function : folders_of(sys / "bus/pci/devices")) {
    if (text_of(function / "class") != pci_class_nvme) continue;
    NvmeDriveInfo drive{.address = function.filename().string(),
                        .transport = "pcie",
                        .driver = driver_of(function),
                        .numa_node = numa_node_of(function)};
    if (drive.driver == "nvme") continue;
    drive.no_smart = "the kernel's nvme driver has it not";
    drives.push_back(std::move(drive));
  }
  return drives;
}

}  // namespace kvpool
