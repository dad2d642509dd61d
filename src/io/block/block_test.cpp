// The rules of what may be overwritten, on devices that are bytes in memory, and what sysfs says of a device.
// Devices of the kernel's are met in io/file's tests and in tests/vm.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <vector>

#include "base/units.h"
#include "io/block/block_use.h"
#include "io/block/whole_device.h"

namespace kvpool {
namespace {

constexpr uint64_t size_bytes = 80 * mib + 512;  // behind its last whole page there is a block

struct Disk {
  std::vector<std::byte> bytes = std::vector<std::byte>(size_bytes);
  uint32_t block_bytes = 512;
  uint64_t read_bytes = 0;

  [[nodiscard]] WholeDevice whole() {
    return {.path = "/dev/disk",
            .size_bytes = bytes.size() / block_bytes * block_bytes,
            .block_bytes = block_bytes,
            .read = [this](uint64_t offset, std::span<std::byte> out) -> Status {
              EXPECT_EQ(offset % block_bytes, 0U);
              EXPECT_EQ(out.size() % block_bytes, 0U);
              EXPECT_LE(offset + out.size(), bytes.size());
              EXPECT_EQ(reinterpret_cast<uintptr_t>(out.data()) % block_bytes, 0U);
              std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(offset), out.size(), out.begin());
              read_bytes += out.size();
              return {};
            }};
  }
  void put_header() {
    const PoolHeader header = make_pool_header(8 * mib, 4096);
    std::memcpy(bytes.data(), &header, sizeof header);
  }
  [[nodiscard]] std::string refusal() {
    const Status good = check_contents(whole());
    return good ? "none" : good.error().message;
  }
};

TEST(WholeDevice, IsTakenWhereItIsBlank) {
  for (const uint32_t block_bytes : {512U, 4096U, 65536U}) {
    Disk disk;
    disk.block_bytes = block_bytes;
    if (block_bytes == 4096) std::ranges::fill(disk.bytes, std::byte{0xff});
    EXPECT_EQ(disk.refusal(), "none") << block_bytes;
  }
}

TEST(WholeDevice, WithOneByteWhereSignaturesLieIsRefused) {
  // A boot sector, LVM's label, ext4's superblock, RAID's, btrfs's, the head's end; the backup of a partition
  // table.
  for (const uint64_t at : {uint64_t{510}, uint64_t{512}, uint64_t{1080}, uint64_t{4096}, uint64_t{65600},
                            64 * mib - 1, size_bytes - mib, size_bytes - 512, size_bytes - 1}) {
    Disk disk;
    disk.bytes[at] = std::byte{1};
    EXPECT_EQ(disk.refusal().find("/dev/disk: holds data that kvpool did not write; it was left alone"), 0U)
        << at << ": " << disk.refusal();
  }
}

TEST(WholeDevice, WithDataInItsMiddleIsRefused) {
  Disk disk;
  for (uint64_t at = 64 * mib; at < 79 * mib; at += 4096) disk.bytes[at] = std::byte{1};
  EXPECT_NE(disk.refusal(), "none");
}

TEST(WholeDevice, OfAPoolIsTakenAgainAndMuchOfItIsNotRead) {
  Disk disk;
  disk.put_header();
  std::fill(disk.bytes.begin() + mib, disk.bytes.end() - mib, std::byte{7});
  EXPECT_EQ(disk.refusal(), "none");
  EXPECT_LE(disk.read_bytes, 2 * mib + 4096);
}

// A RAID's superblock and LVM's label may spare our header.
TEST(WholeDevice, ThatSomebodyTookAfterAPoolIsRefused) {
  for (const uint64_t at : {uint64_t{4096}, mib - 1, size_bytes - mib, size_bytes - 1}) {
    Disk disk;
    disk.put_header();
    disk.bytes[at] = std::byte{1};
    EXPECT_NE(disk.refusal().find("holds data that kvpool did not write"), std::string::npos) << at;
  }
}

TEST(WholeDevice, HasRoomForWhatFitsBesideHeaderAndTail) {
  Disk disk;
  EXPECT_EQ(make_device_header(disk.whole(), 78 * mib)->size_bytes, 78 * mib);
  EXPECT_NE(make_device_header(disk.whole(), 79 * mib).error().message.find("has room for 78 MiB"),
            std::string::npos);
  disk.block_bytes = 65536;
  const auto header = make_device_header(disk.whole(), mib + 4096);
  EXPECT_EQ(header->size_bytes, mib);
  EXPECT_EQ(header->alignment_bytes, 65536U);
  disk.bytes.resize(2 * mib);
  EXPECT_EQ(disk.refusal(), "/dev/disk: has 2 MiB only");
  disk.bytes.clear();
  EXPECT_EQ(disk.refusal(), "/dev/disk: has 0 B only");
}

TEST(WholeDevice, ThatCannotBeReadIsRefused) {
  Disk disk;
  WholeDevice device = disk.whole();
  device.read = [](uint64_t offset, std::span<std::byte>) -> Status {
    if (offset < mib) return {};
    return fail(Errc::io_error, "/dev/disk: cannot be read");
  };
  EXPECT_EQ(check_contents(device).error().message, "/dev/disk: cannot be read");
}

TEST(BlockUse, IsReadFromSysfs) {
  namespace fs = std::filesystem;
  EXPECT_EQ(kernel_use_of("/sys/block/none"), "cannot be looked at (No such file or directory)");
  std::string pattern = testing::TempDir() + "kvpool_block_XXXXXX";
  ASSERT_NE(mkdtemp(pattern.data()), nullptr);
  const fs::path disk = fs::path(pattern) / "nvme0n1";
  fs::create_directories(disk / "holders");
  std::ofstream(disk / "dev") << "9999:1\n";
  EXPECT_EQ(kernel_use_of(disk), "");
  fs::create_directories(disk / "holders/md127");
  EXPECT_EQ(kernel_use_of(disk), "belongs to md127");
  const fs::path partition = disk / "nvme0n1p1";
  fs::create_directories(partition / "holders/dm-3");
  std::ofstream(partition / "partition") << "1\n";
  EXPECT_EQ(kernel_use_of(disk), "has partitions");
  EXPECT_EQ(kernel_use_of(partition), "belongs to dm-3");
  // The character device has the namespace's instance, not always its first number.
  fs::create_directories(disk / "device/ng1n2");
  EXPECT_EQ(nvme_character_device_of(disk), "");
  fs::create_directories(disk / "device/ng1n1");
  EXPECT_EQ(nvme_character_device_of(disk), "/dev/ng1n1");
  EXPECT_EQ(nvme_character_device_of(partition), "/dev/ng1n1");
  fs::remove_all(pattern);
}

}  // namespace
}  // namespace kvpool
