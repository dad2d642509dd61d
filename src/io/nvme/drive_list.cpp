#include "io/nvme/drive_list.h"

#include <blkid/blkid.h>
#include <fcntl.h>
#include <linux/nvme_ioctl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <fstream>
#include <memory>
#include <system_error>

#include "io/nvme/block_use.h"
#include "io/nvme/nvme_drive.h"
#include "io/pool_header.h"

namespace kvpool {
namespace {

namespace fs = std::filesystem;

constexpr uint8_t admin_opcode_get_log = 0x02;
constexpr std::string_view pci_class_nvme = "0x010802";
constexpr uint64_t sector_bytes = 512;  // in which sysfs counts, whatever the drive's blocks are

std::string error_text(int error) { return std::generic_category().message(error); }

// A line of sysfs, without the blanks that pad what drives say.
std::string text_of(const fs::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  std::ranges::replace_if(line, [](char c) { return c < ' ' || c > '~'; }, ' ');
  line.erase(line.find_last_not_of(' ') + 1);
  return line;
}

uint64_t number_of(const fs::path& path) {
  uint64_t number = 0;
  std::ifstream(path) >> number;
  return number;
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

// The first signature that libblkid knows, or "nothing" in its eyes.
void probe_signature(int fd, NvmeNamespaceInfo& info) {
  const std::unique_ptr<blkid_struct_probe, decltype(&blkid_free_probe)> probe(blkid_new_probe(),
                                                                               blkid_free_probe);
  if (!probe || blkid_probe_set_device(probe.get(), fd, 0, 0) != 0) {
    info.unknown = "libblkid cannot read it";
    return;
  }
  blkid_probe_enable_superblocks(probe.get(), 1);
  blkid_probe_enable_partitions(probe.get(), 1);
  const int found = blkid_do_safeprobe(probe.get());
  if (found < 0) {
    info.unknown = found == -2 ? "it holds several signatures" : "it cannot be read";
    return;
  }
  const char* type = nullptr;
  for (const char* name : {"TYPE", "PTTYPE"}) {
    if (type == nullptr) blkid_probe_lookup_value(probe.get(), name, &type, nullptr);
  }
  info.holds = type != nullptr ? type : "nothing that is known";
}

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
    if (info.use.empty() && is_pool_open(info.path)) info.use = "is open in " + owner_of(header);
    return;
  }
  probe_signature(device.fd, info);
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

void add_namespaces(const fs::path& sys, const fs::path& controller, NvmeDriveInfo& drive) {
  for (const fs::path& folder : folders_of(controller)) {
    const std::string name = folder.filename().string();
    if (!name.starts_with("ng")) continue;
    const std::string block = "nvme" + name.substr(2);
    NvmeNamespaceInfo info{.path = "/dev/" + name, .block_path = "/dev/" + block};
    const fs::path its = sys / "block" / block;
    info.size_bytes = number_of(its / "size") * sector_bytes;
    info.block_bytes = static_cast<uint32_t>(number_of(its / "queue/logical_block_size"));
    info.use = kernel_use_of(its);
    look_inside(info);
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
                        .driver = driver_of(folder / "device")};
    std::ifstream(folder / "device/numa_node") >> drive.numa_node;
    add_namespaces(sys, folder, drive);
    read_smart(drive);
    drives.push_back(std::move(drive));
  }
  for (const fs::path& function : folders_of(sys / "bus/pci/devices")) {
    if (text_of(function / "class") != pci_class_nvme) continue;
    NvmeDriveInfo drive{
        .address = function.filename().string(), .transport = "pcie", .driver = driver_of(function)};
    if (drive.driver == "nvme") continue;
    std::ifstream(function / "numa_node") >> drive.numa_node;
    drive.no_smart = "the kernel's nvme driver has it not";
    drives.push_back(std::move(drive));
  }
  return drives;
}

}  // namespace kvpool
