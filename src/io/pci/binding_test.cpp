// Plans and steps on a machine that is a folder: its /sys, its /dev, and a kernel that obeys, or not. Drives
// themselves are met in tests/vm.

#include "io/pci/binding.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "base/units.h"
#include "io/pci/huge_pages.h"

namespace kvpool {
namespace {

namespace fs = std::filesystem;

class Binding : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "kvpool_pci_XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    sys_ = folder_ / "sys";
    fs::create_directories(sys_ / "block");
    for (const char* driver : {"nvme", "vfio-pci", "e1000e"}) fs::create_directories(driver_folder(driver));
    add_drive("0000:01:00.0", "nvme0", "nvme", "7");
    add_drive("0000:02:00.0", "", "vfio-pci", "8");
    add_function("0000:03:00.0", "0x020000", "e1000e", "9");
    host_ = {.sys = sys_,
             .dev = folder_ / "dev",
             .modules = folder_ / "modules",
             .is_root = true,
             .carry_out = [this](const HostStep& step) { return obey(step); }};
  }
  void TearDown() override { fs::remove_all(folder_); }

  void write(const fs::path& path, const std::string& text) const {
    fs::create_directories(path.parent_path());
    std::ofstream(path) << text << "\n";
  }
  [[nodiscard]] fs::path function(const std::string& address) const {
    return sys_ / "bus/pci/devices" / address;
  }
  [[nodiscard]] fs::path driver_folder(const std::string& driver) const {
    return sys_ / "bus/pci/drivers" / driver;
  }
  void add_function(const std::string& address, const std::string& its_class, const std::string& driver,
                    const std::string& group) const {
    write(function(address) / "class", its_class);
    write(function(address) / "numa_node", "1");
    if (!driver.empty()) fs::create_directory_symlink(driver_folder(driver), function(address) / "driver");
    if (group.empty()) return;
    const fs::path folder = sys_ / "kernel/iommu_groups" / group;
    fs::create_directories(folder / "devices" / address);
    fs::create_directory_symlink(folder, function(address) / "iommu_group");
  }
  void add_drive(const std::string& address, const std::string& controller, const std::string& driver,
                 const std::string& group) const {
    add_function(address, "0x010802", driver, group);
    if (!controller.empty()) add_controller(address, controller);
  }
  void add_controller(const std::string& address, const std::string& controller) const {
    write(sys_ / "class/nvme" / controller / "address", address);
    write(sys_ / "class/nvme" / controller / "state", "live");
    fs::create_directory_symlink(function(address), sys_ / "class/nvme" / controller / "device");
  }
  // As the kernel does it, but for the step that is to fail.
  Status obey(const HostStep& step) {
    done_.push_back(to_string(step));
    if (done_.size() == fails_at_) return fail(Errc::system, "no");
    if (step.path.ends_with("driver_override")) override_ = step.text;
    if (step.path.ends_with("/unbind")) fs::remove(function(step.text) / "driver");
    if (step.path.ends_with("drivers_probe") && !refuses_) {
      const std::string driver = override_.empty() ? "nvme" : override_;
      fs::create_directory_symlink(driver_folder(driver), function(step.text) / "driver");
    }
    return {};
  }
  [[nodiscard]] std::string driver_of(const std::string& address) const {
    std::error_code error;
    return fs::read_symlink(function(address) / "driver", error).filename().string();
  }
  [[nodiscard]] std::string refusal(const std::string& name) const {
    const auto plan = plan_prepare(host_, {name});
    return plan ? "none" : plan.error().message;
  }

  fs::path folder_;
  fs::path sys_;
  Host host_;
  std::string override_;
  std::vector<std::string> done_;
  size_t fails_at_ = 0;
  bool refuses_ = false;
};

#define EXPECT_HAS(text, part) EXPECT_NE(std::string(text).find(part), std::string::npos) << (text)

TEST_F(Binding, GoesToUserSpaceAndBack) {
  for (const char* name : {"0000:01:00.0", "01:00.0", "nvme0", "/dev/nvme0"}) {
    const auto plan = plan_prepare(host_, {name, "0000:01:00.0"});
    ASSERT_TRUE(plan) << plan.error().message;
    ASSERT_EQ(plan->size(), 1U);
    EXPECT_EQ(plan->at(0).iommu_group, "7");
    ASSERT_EQ(plan->at(0).steps.size(), 3U);
    EXPECT_EQ(to_string(plan->at(0).steps[0]),
              "echo vfio-pci > " + (function("0000:01:00.0") / "driver_override").string());
    EXPECT_EQ(to_string(plan->at(0).steps[1]),
              "echo 0000:01:00.0 > " + (driver_folder("nvme") / "unbind").string());
    EXPECT_EQ(to_string(plan->at(0).steps[2]),
              "echo 0000:01:00.0 > " + (sys_ / "bus/pci/drivers_probe").string());
  }
  EXPECT_TRUE(done_.empty());
  const auto there = plan_prepare(host_, {"nvme0"});
  ASSERT_TRUE(bind_drive(host_, there->at(0)));
  EXPECT_EQ(driver_of("0000:01:00.0"), "vfio-pci");
  fs::remove_all(sys_ / "class/nvme/nvme0");
  EXPECT_TRUE(plan_prepare(host_, {"0000:01:00.0"})->at(0).steps.empty());
  const auto back = plan_release(host_, {"0000:01:00.0"});
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_EQ(to_string(back->at(0).steps[0]),
            "echo > " + (function("0000:01:00.0") / "driver_override").string());
  ASSERT_TRUE(bind_drive(host_, back->at(0)));
  EXPECT_EQ(driver_of("0000:01:00.0"), "nvme");
  add_controller("0000:01:00.0", "nvme1");
  EXPECT_TRUE(plan_release(host_, {"0000:01:00.0"})->at(0).steps.empty());
}

TEST_F(Binding, RefusesWhatItMayNotTake) {
  EXPECT_HAS(refusal("0000:03:00.0"), "0000:03:00.0: is no NVMe drive (PCI class 0x020000");
  EXPECT_HAS(refusal("nvme9"), "nvme9: there is no such NVMe drive on PCI");
  EXPECT_HAS(refusal(""), "there is no such NVMe drive");
  add_drive("0000:04:00.0", "nvme1", "nvme", "");
  EXPECT_HAS(refusal("nvme1"), "has no IOMMU group; switch the IOMMU on");
  write(sys_ / "module/vfio/parameters/enable_unsafe_noiommu_mode", "Y");
  EXPECT_EQ(refusal("nvme1"), "none");
  add_function("0000:01:00.1", "0x020000", "e1000e", "");
  fs::create_directories(sys_ / "kernel/iommu_groups/7/devices/0000:01:00.1");
  EXPECT_HAS(refusal("nvme0"), "shares IOMMU group 7 with 0000:01:00.1, which e1000e has");
  write(function("0000:01:00.1") / "class", "0x060400");
  EXPECT_EQ(refusal("nvme0"), "none");
  write(sys_ / "class/nvme/nvme0/state", "resetting");
  EXPECT_HAS(refusal("nvme0"), "nvme0 is resetting, so it cannot be asked what it holds");
  add_drive("0000:05:00.0", "", "", "5");
  EXPECT_HAS(refusal("0000:05:00.0"), "is bound to no driver, so it cannot be asked what it holds");
  host_.is_root = false;
  EXPECT_HAS(refusal("nvme0"), "run this as root");
}

// A namespace that the list of character devices does not have, and which cannot be looked into.
TEST_F(Binding, RefusesADriveWhoseNamespaceCannotBeRead) {
  fs::create_directories(sys_ / "block/nvme0n1");
  fs::create_directory_symlink(sys_ / "class/nvme/nvme0", sys_ / "block/nvme0n1/device");
  EXPECT_HAS(refusal("nvme0"), "dev/nvme0n1: No such file or directory");
  fs::remove_all(sys_ / "block");
  EXPECT_HAS(refusal("nvme0"), "nvme0: its namespaces cannot be listed");
}

TEST_F(Binding, SaysAllThatIsWrong) {
  const auto plan = plan_prepare(host_, {"nvme8", "nvme0", "0000:03:00.0"});
  ASSERT_FALSE(plan);
  EXPECT_EQ(std::ranges::count(plan.error().message, '\n'), 1);
}

TEST_F(Binding, LoadsADriverThatIsThere) {
  fs::remove_all(driver_folder("vfio-pci"));
  EXPECT_HAS(refusal("nvme0"), "this kernel has no module vfio-pci");
  write(folder_ / "modules/modules.dep", "kernel/vfio/pci/vfio-pci.ko.xz: kernel/vfio/vfio.ko.xz");
  const auto plan = plan_prepare(host_, {"nvme0"});
  ASSERT_TRUE(plan) << plan.error().message;
  EXPECT_EQ(to_string(plan->at(0).steps[0]), "modprobe vfio-pci");
}

TEST_F(Binding, GivesBackWhatCouldNotBeBound) {
  for (fails_at_ = 1; fails_at_ <= 3; ++fails_at_) {
    done_.clear();
    const auto plan = plan_prepare(host_, {"nvme0"});
    ASSERT_TRUE(plan) << plan.error().message;
    const Status bound = bind_drive(host_, plan->at(0));
    ASSERT_FALSE(bound);
    EXPECT_EQ(driver_of("0000:01:00.0"), "nvme");
    EXPECT_EQ(override_, "");
    EXPECT_EQ(
        bound.error().message,
        "0000:01:00.0: could not be bound to vfio-pci: no\n0000:01:00.0: is bound to nvme now, as before");
  }
  refuses_ = true;
  const auto plan = plan_prepare(host_, {"nvme0"});
  const Status bound = bind_drive(host_, plan->at(0));
  EXPECT_HAS(bound.error().message, "after all steps no driver has it");
  EXPECT_HAS(bound.error().message, "is bound to no driver now; `kvpool device release 0000:01:00.0`");
}

TEST_F(Binding, ReservesHugePagesWhereTheDrivesAre) {
  const auto pages = [&](const std::string& node, const std::string& count, const std::string& free) {
    const fs::path folder = sys_ / node / "hugepages";
    write(folder / "hugepages-2048kB/nr_hugepages", count);
    write(folder / "hugepages-2048kB/free_hugepages", free);
    write(folder / "hugepages-1048576kB/nr_hugepages", "0");
    write(folder / "hugepages-1048576kB/free_hugepages", "0");
  };
  EXPECT_FALSE(plan_huge_pages(host_, 8 * mib, {0}));
  pages("kernel/mm", "1", "1");
  pages("devices/system/node/node0", "0", "0");
  auto plan = plan_huge_pages(host_, 8 * mib, {0, 0});
  ASSERT_TRUE(plan) << plan.error().message;
  ASSERT_EQ(plan->size(), 1U);
  EXPECT_FALSE(plan->at(0).node);
  EXPECT_EQ(plan->at(0).pages_wanted, 4U);
  EXPECT_EQ(plan->at(0).step->text, "4");
  // Two nodes: a half on each, and what is there is never made less.
  pages("devices/system/node/node1", "10", "1");
  plan = plan_huge_pages(host_, 7 * mib, {1, 0, -1});
  ASSERT_EQ(plan->size(), 2U);
  EXPECT_EQ(plan->at(0).step->text, "2");
  EXPECT_EQ(plan->at(1).node, 1);
  EXPECT_EQ(plan->at(1).step->text, "11");
  EXPECT_FALSE(plan_huge_pages(host_, 2 * mib, {1})->at(0).step);
  // The kernel may give fewer.
  EXPECT_EQ(*reserve_huge_pages(host_, plan->at(1)), 1U);
}

}  // namespace
}  // namespace kvpool
