// Drives of the virtual machine between the kernel and vfio-pci: kvpool device prepare and release.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/swap.h>
#include <unistd.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "drives.h"
#include "io/nvme/nvme_device.h"

namespace kvpool {
namespace {

using nlohmann::json;

std::string line_of(const fs::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::string address_of(const std::string& serial) {
  return line_of("/sys/class/nvme-generic/" + name_of(serial) + "/device/address");
}

std::string driver_of(const std::string& address) {
  std::error_code error;
  return fs::read_symlink("/sys/bus/pci/devices/" + address + "/driver", error).filename().string();
}

class Binding : public VirtualMachine {
 protected:
  void SetUp() override {
    VirtualMachine::SetUp();
    if (IsSkipped()) return;
    std::error_code error;
    if (fs::directory_iterator("/sys/class/iommu", error) == fs::directory_iterator()) {
      GTEST_SKIP() << "this machine has no IOMMU: QEMU lacks intel-iommu";
    }
  }
  // What prepare says of a drive that it refuses, and that the drive stays where it is.
  static std::string refusal(const std::string& name, const std::string& address) {
    const Outcome refused = kvpool("device prepare --yes " + name);
    EXPECT_EQ(refused.status, 2) << refused.output;
    EXPECT_EQ(driver_of(address), "nvme");
    return refused.errors;
  }
  static std::string refusal(const std::string& serial) {
    return refusal(block_path_of(serial), address_of(serial));
  }
  // A drive that comes back takes a moment to be asked for its namespaces.
  static void wait_for(const std::string& serial) {
    for (int tries = 0; tries < 300; ++tries) {
      for (const auto& entry : fs::directory_iterator("/sys/class/nvme-generic")) {
        const std::string path = "/dev/nvme" + entry.path().filename().string().substr(2);
        if (line_of(entry.path() / "device/serial").starts_with(serial + " ") && fs::exists(path)) return;
      }
      usleep(100'000);
    }
    ADD_FAILURE() << serial << " did not come back";
  }
};

TEST_F(Binding, WantsTheModule) {
  if (fs::exists("/sys/bus/pci/drivers/vfio-pci")) GTEST_SKIP() << "the kernel has it already";
  EXPECT_HAS(refusal("slow"), "this kernel has no module vfio-pci; install the package");
  ASSERT_EQ(std::system("insmod /modules/vfio_pci.ko"), 0);
}

TEST_F(Binding, RefusesDrivesThatHoldSomethingOrAreInUse) {
  EXPECT_HAS(refusal("ext4"), "holds data that kvpool did not write (ext4); it was left alone");
  EXPECT_HAS(refusal("raid"), "holds data that kvpool did not write (linux_raid_member)");
  EXPECT_HAS(refusal("partitions"), "has partitions; it was left alone");
  EXPECT_HAS(refusal("middling"), "holds data that kvpool did not write; it was left alone");
  fs::create_directories("/tmp/mounted");
  ASSERT_EQ(mount(block_path_of("ext4").c_str(), "/tmp/mounted", "ext4", MS_RDONLY, nullptr), 0);
  EXPECT_HAS(refusal("ext4"), "is mounted; it was left alone");
  ASSERT_EQ(unmount("/tmp/mounted"), 0);
  ASSERT_EQ(std::system(("mkswap " + block_path_of("swap") + " >/dev/null").c_str()), 0);
  ASSERT_EQ(swapon(block_path_of("swap").c_str(), 0), 0);
  EXPECT_HAS(refusal("swap"), "is swap space; it was left alone");
  ASSERT_EQ(swapoff(block_path_of("swap").c_str()), 0);
  const auto pool = NvmeDevice::open({.name = "n", .path = path_of("suite"), .size_bytes = 8 * mib});
  ASSERT_TRUE(pool) << pool.error().message;
  EXPECT_HAS(refusal("suite"), "in use by process ");
  const Outcome bridge = kvpool("device prepare 0000:00:00.0");
  EXPECT_EQ(bridge.status, 2);
  EXPECT_HAS(bridge.errors, "0000:00:00.0: is no NVMe drive (PCI class 0x060000, not 0x010802)");
}

TEST_F(Binding, DoesNothingUntilItIsTold) {
  const std::string address = address_of("slow");
  const Outcome printed = kvpool("device prepare --huge-pages 8MiB " + path_of("slow"));
  ASSERT_EQ(printed.status, 0) << printed.errors;
  EXPECT_HAS(printed.output, "echo vfio-pci > /sys/bus/pci/devices/" + address + "/driver_override");
  EXPECT_HAS(printed.output, "echo " + address + " > /sys/bus/pci/drivers/nvme/unbind");
  EXPECT_HAS(printed.output, "> /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages");
  EXPECT_HAS(printed.output, "nothing was done; --yes does it");
  EXPECT_EQ(driver_of(address), "nvme");
  EXPECT_EQ(line_of("/sys/bus/pci/devices/" + address + "/driver_override"), "(null)");
  EXPECT_EQ(line_of("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"), "0");
}

TEST_F(Binding, GivesDrivesToUserSpaceAndTakesThemBack) {
  // One of a pool's that is closed, and a blank one.
  ASSERT_TRUE(NvmeDevice::open({.name = "n", .path = path_of("slow"), .size_bytes = 8 * mib}));
  const std::string address = address_of("slow");
  const Outcome prepared = kvpool("device prepare --yes --json --huge-pages 8MiB " + address);
  ASSERT_EQ(prepared.status, 0) << prepared.errors;
  const json result = json::parse(prepared.output);
  EXPECT_EQ(result["carried_out"], true);
  ASSERT_EQ(result["drives"].size(), 1U);
  EXPECT_EQ(result["drives"][0]["done"], true);
  EXPECT_EQ(result["drives"][0]["from"], "nvme");
  EXPECT_EQ(result["huge_pages"][0]["pages_free"], 4);
  EXPECT_EQ(driver_of(address), "vfio-pci");
  const std::string group = "/dev/vfio/" + result["drives"][0]["iommu_group"].get<std::string>();
  EXPECT_TRUE(fs::is_character_file(group)) << group;
  EXPECT_HAS(kvpool("device list").output, address + ": an NVMe controller of the driver vfio-pci");
  EXPECT_HAS(kvpool("device prepare --yes " + address).output, "is bound to vfio-pci already");

  const int user = ::open(group.c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(user, 0);
  const Outcome used = kvpool("device release --yes " + address);
  EXPECT_EQ(used.status, 2);
  EXPECT_HAS(used.errors, "a process has it (" + group + " is open); end that process first");
  close(user);
  EXPECT_HAS(kvpool("device release " + address).output, "nothing was done");
  EXPECT_EQ(driver_of(address), "vfio-pci");
  const Outcome released = kvpool("device release --yes " + address);
  ASSERT_EQ(released.status, 0) << released.errors;
  EXPECT_EQ(driver_of(address), "nvme");
  wait_for("slow");
  const auto pool = NvmeDevice::open({.name = "n", .path = path_of("slow"), .size_bytes = 8 * mib});
  ASSERT_TRUE(pool) << pool.error().message;
}

// SPDK's driver over PCIe, the IOMMU and the pool's own huge pages: the Device seam's suite, and a pool's
// tool.
TEST_F(Binding, ADriveServesSpdk) {
  if (!fs::exists("/usr/bin/libkvpool_spdk.so")) GTEST_SKIP() << "built without SPDK";
  const std::string address = address_of("fast");
  const Outcome prepared = kvpool("device prepare --yes --huge-pages 256MiB " + address);
  ASSERT_EQ(prepared.status, 0) << prepared.errors;
  const std::string spdk = "trtype:PCIe traddr:" + address;
  const Outcome measured =
      kvpool("bench device --json --size 64KiB --depth 8 --seconds 0.5 --device \"spdk,path=" + spdk +
             ",size=16MiB\"");
  EXPECT_EQ(measured.status, 0) << measured.errors;
  if (measured.status == 0) {
    EXPECT_GT(json::parse(measured.output)["bytes_per_second"].get<double>(), 1e6);
  }
  EXPECT_EQ(std::system(("KVPOOL_TEST_SPDK='" + spdk +
                         "' LD_LIBRARY_PATH=/usr/bin /programs/devices_test --gtest_filter='*/spdk'")
                            .c_str()),
            0);
  EXPECT_EQ(kvpool("device release --yes " + address).status, 0);
  wait_for("fast");
}

}  // namespace
}  // namespace kvpool
