// What needs no drive: commands, status codes, and the reading of what a drive says of itself. A drive itself
// is met in tests/vm.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/prng.h"
#include "io/nvme/command.h"
#include "io/nvme/drive_list.h"
#include "io/nvme/identity.h"
#include "io/nvme/nvme_device.h"
#include "io/nvme/smart.h"

namespace kvpool {
namespace {

using Page = std::array<std::byte, nvme_identify_bytes>;

template <class T>
void put(Page& page, size_t offset, T value) {
  std::memcpy(page.data() + offset, &value, sizeof value);
}

struct Drive {
  Page controller{};
  Page ns{};

  Drive() {
    constexpr std::string_view model = "Some Drive 2TB                          ";
    std::memcpy(controller.data() + 24, model.data(), model.size());
    std::memcpy(controller.data() + 4, "S\x1bN7                ", 20);
    put<uint8_t>(controller, 77, 5);  // 2^5 pages of 4 KiB
    put<uint64_t>(ns, 0, 1'000'000);
    put<uint8_t>(ns, 25, 1);
    put<uint8_t>(ns, 26, 1);
    put<uint8_t>(ns, 128 + 2, 9);
    put<uint8_t>(ns, 132 + 2, 12);
  }
  [[nodiscard]] Result<NvmeIdentity> parse() const {
    return parse_nvme_identity(controller, ns, "/dev/ng0n1");
  }
  [[nodiscard]] std::string refusal() const {
    const auto identity = parse();
    return identity ? "none" : identity.error().message;
  }
};

TEST(NvmeIdentity, IsReadFromWhatTheDriveSays) {
  Drive drive;
  auto identity = drive.parse();
  ASSERT_TRUE(identity) << identity.error().message;
  EXPECT_EQ(identity->model, "Some Drive 2TB");
  EXPECT_EQ(identity->serial, "S N7");  // nothing that a terminal would obey
  EXPECT_EQ(identity->block_bytes, 4096U);
  EXPECT_EQ(identity->size_bytes, 4'096'000'000U);
  EXPECT_EQ(identity->transfer_bytes_max, 128U << 10);
  put<uint8_t>(drive.ns, 26, 0);
  put<uint8_t>(drive.controller, 77, 0);
  identity = drive.parse();
  EXPECT_EQ(identity->block_bytes, 512U);
  EXPECT_EQ(identity->transfer_bytes_max, UINT32_MAX);
}

TEST(NvmeIdentity, SaysWhetherAndHowMuchCanBeDiscarded) {
  Drive drive;
  EXPECT_FALSE(drive.parse()->discards);
  put<uint16_t>(drive.controller, 520, 0x0c);  // write zeroes and dataset management
  EXPECT_TRUE(drive.parse()->discards);
  put<uint16_t>(drive.controller, 520, 0x08);
  EXPECT_FALSE(drive.parse()->discards);
  Page page{};
  const DiscardLimits none = parse_nvme_discard_limits(page, 512);
  EXPECT_EQ(none.ranges_max, 256U);
  EXPECT_EQ(none.range_bytes_max, 1U << 30);
  EXPECT_EQ(none.command_bytes_max, 1U << 30);
  put<uint8_t>(page, 3, 8);
  put<uint32_t>(page, 4, 256);
  put<uint64_t>(page, 8, UINT64_MAX);
  DiscardLimits limits = parse_nvme_discard_limits(page, 4096);
  EXPECT_EQ(limits.ranges_max, 8U);
  EXPECT_EQ(limits.range_bytes_max, 1U << 20);
  EXPECT_EQ(limits.command_bytes_max, 1U << 30);
  put<uint64_t>(page, 8, 1000);
  limits = parse_nvme_discard_limits(page, 4096);
  EXPECT_EQ(limits.command_bytes_max, 4'096'000U);
}

TEST(NvmeIdentity, FormatsThatCannotBeUsedAreRefused) {
  const auto refused = [](auto change, std::string_view part) {
    Drive drive;
    change(drive);
    EXPECT_NE(drive.refusal().find(part), std::string::npos) << drive.refusal();
    EXPECT_EQ(drive.refusal().find("/dev/ng0n1: "), 0U);
  };
  refused([](Drive& d) { put<uint16_t>(d.ns, 132, 8); }, "8 bytes of metadata");
  refused([](Drive& d) { put<uint8_t>(d.ns, 29, 1); }, "protection information");
  refused([](Drive& d) { put<uint8_t>(d.ns, 26, 2); }, "block format 2 is not in its own list");
  refused([](Drive& d) { put<uint8_t>(d.ns, 26, 0x20); }, "block format 16 is not in its own list");
  refused([](Drive& d) { put<uint8_t>(d.ns, 134, 8); }, "2^8 bytes");
  refused([](Drive& d) { put<uint8_t>(d.ns, 134, 200); }, "2^200 bytes");
  refused([](Drive& d) { put<uint64_t>(d.ns, 0, 0); }, "0 blocks");
  refused([](Drive& d) { put<uint64_t>(d.ns, 0, UINT64_MAX); }, "blocks");
}

TEST(NvmeIdentity, AnythingAtAllIsRefusedOrMakesSense) {
  for (uint64_t seed = 0; seed < 20'000; ++seed) {
    Prng prng(seed);
    Drive drive;
    for (int i = 0; i < 6; ++i) {
      Page& page = prng.chance(0.5) ? drive.controller : drive.ns;
      page[prng.below(prng.chance(0.5) ? 160 : 4096)] = static_cast<std::byte>(prng.next());
    }
    const auto identity = drive.parse();
    if (!identity) continue;
    ASSERT_GE(identity->block_bytes, 512U) << seed;
    ASSERT_LE(identity->block_bytes, 65536U) << seed;
    ASSERT_GT(identity->size_bytes, 0U) << seed;
    ASSERT_EQ(identity->size_bytes % identity->block_bytes, 0U) << seed;
    ASSERT_GE(identity->transfer_bytes_max, 4096U) << seed;
  }
}

TEST(NvmeCommand, NamesBlocksFromZero) {
  std::array<std::byte, 8192> buffer{};
  const nvme_uring_cmd read = nvme_command(IoKind::read, 7, 0x1'0000'0002, 8192, 512, buffer.data());
  EXPECT_EQ(read.opcode, 2);
  EXPECT_EQ(read.nsid, 7U);
  EXPECT_EQ(read.addr, reinterpret_cast<uintptr_t>(buffer.data()));
  EXPECT_EQ(read.data_len, 8192U);
  EXPECT_EQ(read.cdw10, 2U);
  EXPECT_EQ(read.cdw11, 1U);
  EXPECT_EQ(read.cdw12, 15U);  // the number of blocks less one
  EXPECT_EQ(nvme_command(IoKind::write, 1, 0, 4096, 4096, buffer.data()).opcode, 1);
}

TEST(NvmeCommand, DiscardsRanges) {
  const std::array<NvmeRange, 2> ranges = {{{.blocks = 8, .first_block = 1ULL << 33}, {.blocks = 1}}};
  const nvme_uring_cmd command = nvme_discard_command(7, ranges);
  EXPECT_EQ(command.opcode, 9);
  EXPECT_EQ(command.nsid, 7U);
  EXPECT_EQ(command.addr, reinterpret_cast<uintptr_t>(ranges.data()));
  EXPECT_EQ(command.data_len, 32U);
  EXPECT_EQ(command.cdw10, 1U);  // the number of ranges less one
  EXPECT_EQ(command.cdw11, 4U);  // deallocate
}

TEST(NvmeCommand, StatusCodesAreNamed) {
  EXPECT_EQ(nvme_status_text(0x281), "NVMe status 0x281 (media: unrecovered read error)");
  EXPECT_EQ(nvme_status_text(0x4080), "NVMe status 0x080 (generic: block out of range)");
  EXPECT_EQ(nvme_status_text(0x2ff), "NVMe status 0x2ff (media)");
  EXPECT_EQ(nvme_status_text(0x007), "NVMe status 0x007 (generic: aborted on request)");
  EXPECT_EQ(nvme_status_text(0x082), "NVMe status 0x082 (generic: namespace not ready)");
  // The bits above say whether to retry, and how soon.
  EXPECT_EQ(nvme_status_text(0x1882), "NVMe status 0x082 (generic: namespace not ready)");
  EXPECT_EQ(nvme_status_text(0x371), "NVMe status 0x371 (path: command aborted by the host)");
  EXPECT_EQ(nvme_status_text(0x7c0), "NVMe status 0x7c0 (vendor)");
}

TEST(NvmeSmart, IsReadFromTheLog) {
  std::array<std::byte, nvme_smart_bytes> log{};
  const auto put_byte = [&](size_t at, int value) { log[at] = static_cast<std::byte>(value); };
  put_byte(0, 4);
  put_byte(1, 0x43);  // 323 K
  put_byte(2, 0x01);
  put_byte(3, 90);
  put_byte(4, 10);
  put_byte(5, 120);
  put_byte(160, 7);
  NvmeSmart smart = parse_nvme_smart(log);
  EXPECT_EQ(smart.temperature_celsius, 50);
  EXPECT_EQ(smart.spare_percent, 90U);
  EXPECT_EQ(smart.spare_threshold_percent, 10U);
  EXPECT_EQ(smart.used_percent, 120U);
  EXPECT_EQ(smart.media_errors, 7U);
  EXPECT_EQ(smart.critical_warning, 4U);
  put_byte(170, 1);
  smart = parse_nvme_smart(log);
  EXPECT_EQ(smart.media_errors, UINT64_MAX);
}

// A machine as sysfs shows it: a drive of the kernel's, one that vfio has, and something else.
void make_machine(const std::filesystem::path& sys) {
  namespace fs = std::filesystem;
  const auto write = [&](const std::string& path, const std::string& text) {
    fs::create_directories((sys / path).parent_path());
    std::ofstream(sys / path) << text << "\n";
  };
  for (const char* driver : {"nvme", "vfio-pci"}) fs::create_directories(sys / "bus/pci/drivers" / driver);
  const auto pci = [&](const std::string& address, const std::string& driver, const std::string& its_class) {
    write("bus/pci/devices/" + address + "/class", its_class);
    write("bus/pci/devices/" + address + "/numa_node", "1");
    fs::create_directory_symlink(sys / "bus/pci/drivers" / driver,
                                 sys / "bus/pci/devices" / address / "driver");
  };
  pci("0000:01:00.0", "nvme", "0x010802");
  pci("0000:02:00.0", "vfio-pci", "0x010802");
  pci("0000:03:00.0", "vfio-pci", "0x030000");
  write("class/nvme/nvme77/model", "Some Drive          ");
  write("class/nvme/nvme77/serial", "S1   ");
  write("class/nvme/nvme77/address", "0000:01:00.0");
  write("class/nvme/nvme77/transport", "pcie");
  fs::create_directory_symlink(sys / "bus/pci/devices/0000:01:00.0", sys / "class/nvme/nvme77/device");
  // A namespace of the controller's own, and one of its subsystem's, whose block device has another number.
  fs::create_directories(sys / "subsystem");
  fs::create_directory_symlink(sys / "class/nvme/nvme77", sys / "subsystem/nvme77");
  const auto add = [&](const std::string& generic, const std::string& block, const std::string& owner) {
    fs::create_directories(sys / "class/nvme-generic" / generic);
    fs::create_directory_symlink(sys / owner, sys / "class/nvme-generic" / generic / "device");
    write("block/" + block + "/size", "2048");
    write("block/" + block + "/queue/logical_block_size", "4096");
    fs::create_directory_symlink(sys / owner, sys / "block" / block / "device");
  };
  add("ng77n1", "nvme77n1", "class/nvme/nvme77");
  add("ng75n2", "nvme76n2", "subsystem");
  write("block/nvme77n1/nvme77n1p1/partition", "1");
  write("block/nvme77c77n2/size", "1");  // a path of the second's, which is hidden
}

TEST(NvmeDriveList, ShowsEveryControllerAndWhoHasIt) {
  std::string pattern = testing::TempDir() + "kvpool_sys_XXXXXX";
  ASSERT_NE(mkdtemp(pattern.data()), nullptr);
  const std::filesystem::path sys = pattern;
  make_machine(sys);
  std::vector<NvmeDriveInfo> drives = list_nvme_drives(sys);
  ASSERT_EQ(drives.size(), 2U);
  EXPECT_EQ(drives[0].controller, "nvme77");
  EXPECT_EQ(drives[0].model, "Some Drive");
  EXPECT_EQ(drives[0].serial, "S1");
  EXPECT_EQ(drives[0].driver, "nvme");
  EXPECT_EQ(drives[0].numa_node, 1);
  EXPECT_FALSE(drives[0].smart);
  EXPECT_EQ(drives[0].no_smart, "No such file or directory");
  ASSERT_EQ(drives[0].namespaces.size(), 2U);
  std::ranges::sort(drives[0].namespaces, {}, &NvmeNamespaceInfo::block_path);
  EXPECT_EQ(drives[0].namespaces[0].path, "/dev/ng75n2");
  EXPECT_EQ(drives[0].namespaces[0].block_path, "/dev/nvme76n2");
  std::swap(drives[0].namespaces[0], drives[0].namespaces[1]);
  EXPECT_EQ(drives[0].namespaces[0].path, "/dev/ng77n1");
  EXPECT_EQ(drives[0].namespaces[0].size_bytes, 1U << 20);
  EXPECT_EQ(drives[0].namespaces[0].block_bytes, 4096U);
  EXPECT_EQ(drives[0].namespaces[0].use, "has partitions");
  EXPECT_EQ(drives[0].namespaces[0].holds, "");
  EXPECT_EQ(drives[0].namespaces[0].unknown, "No such file or directory");
  EXPECT_EQ(drives[1].address, "0000:02:00.0");
  EXPECT_EQ(drives[1].driver, "vfio-pci");
  EXPECT_TRUE(drives[1].namespaces.empty());
  std::filesystem::remove_all(sys);
}

TEST(NvmeDevice, WhatIsNoNamespaceIsRefused) {
  const auto refusal = [](const std::string& path) {
    const auto device = NvmeDevice::open({.name = "n", .path = path, .size_bytes = 1 << 20});
    return device ? "none" : device.error().message;
  };
  EXPECT_EQ(
      refusal("/dev/ng77n1"),
      "/dev/ng77n1: cannot be found (`kvpool device list` shows the drives): No such file or directory");
  EXPECT_NE(refusal("/dev/null").find("is another character device; an `nvme` device wants"),
            std::string::npos);
  EXPECT_NE(refusal("/proc/version").find("is no device"), std::string::npos);
}

}  // namespace
}  // namespace kvpool
