// Pools on the block devices of the virtual machine's drives and on a partition.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/swap.h>
#include <unistd.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "drives.h"
#include "io/file/file_device.h"
#include "io/nvme/nvme_device.h"

namespace kvpool {
namespace {

class BlockDrives : public VirtualMachine {
 protected:
  static Result<std::unique_ptr<FileDevice>> open(const std::string& path, uint64_t size_bytes = 8 * mib) {
    return FileDevice::open({.name = "f", .path = path, .size_bytes = size_bytes, .queue_depth = 8});
  }
  // The message of a refusal that left the device as it was.
  static std::string refusal(const std::string& path, uint64_t size_bytes = 8 * mib) {
    const std::string before = edges_of_block(path);
    const auto device = open(path, size_bytes);
    EXPECT_TRUE(before == edges_of_block(path)) << path << " was written to";
    return device ? "none" : device.error().message;
  }
  static std::string refusal_of(const std::string& serial) { return refusal(block_path_of(serial)); }
};

TEST_F(BlockDrives, ThatHoldSomethingAreRefusedAndLeftAlone) {
  EXPECT_HAS(refusal_of("ext4"), "holds data that kvpool did not write (ext4); it was left alone");
  EXPECT_HAS(refusal_of("lvm"), "holds data that kvpool did not write (LVM2_member); it was left alone");
  EXPECT_HAS(refusal_of("raid"),
             "holds data that kvpool did not write (linux_raid_member); it was left alone");
  EXPECT_HAS(refusal_of("middling"), "holds data that kvpool did not write; it was left alone");
  EXPECT_HAS(refusal_of("partitions"), "has partitions; it was left alone");
  EXPECT_HAS(refusal(block_path_of("suite"), 47 * mib), "has room for 46 MiB");
  ASSERT_EQ(std::system(("mkswap " + block_path_of("swap") + " >/dev/null").c_str()), 0);
  EXPECT_HAS(refusal_of("swap"), "holds data that kvpool did not write (swap); it was left alone");
}

TEST_F(BlockDrives, ThatTheKernelUsesAreRefused) {
  fs::create_directories("/tmp/mounted");
  ASSERT_EQ(mount(block_path_of("ext4").c_str(), "/tmp/mounted", "ext4", MS_RDONLY, nullptr), 0);
  EXPECT_HAS(refusal_of("ext4"), "is mounted; it was left alone");
  ASSERT_EQ(unmount("/tmp/mounted"), 0);
  ASSERT_EQ(std::system(("mkswap " + block_path_of("swap") + " >/dev/null").c_str()), 0);
  ASSERT_EQ(swapon(block_path_of("swap").c_str(), 0), 0);
  EXPECT_HAS(refusal_of("swap"), "is swap space; it was left alone");
  ASSERT_EQ(swapoff(block_path_of("swap").c_str()), 0);
  // A partition whose whole disk somebody has.
  const std::string disk = block_path_of("partitions");
  const int held = ::open(disk.c_str(), O_RDONLY | O_EXCL | O_CLOEXEC);
  ASSERT_GE(held, 0);
  EXPECT_HAS(refusal(disk + "p1"), "is in use by the kernel or another process");
  close(held);
}

TEST_F(BlockDrives, UnderAVolumeOfTheDeviceMapperAreRefusedAndTheVolumeIsNot) {
  const std::string disk = block_path_of("fast");
  const std::string make = "dmsetup create --noudevsync volume --table '0 65536 linear " + disk + " 0'";
  ASSERT_EQ(std::system(make.c_str()), 0);
  EXPECT_HAS(refusal(disk), "belongs to dm-0; it was left alone");
  {
    const auto pool = open("/dev/dm-0", 30 * mib);
    ASSERT_TRUE(pool) << pool.error().message;
    EXPECT_HAS(refusal("/dev/dm-0"), "in use by this process");
  }
  EXPECT_HAS(refusal("/dev/dm-0", 31 * mib), "has room for 30 MiB");
  ASSERT_EQ(std::system("dmsetup remove --noudevsync volume"), 0);
}

// Two names of one drive: its own commands, and its block device.
TEST_F(BlockDrives, BelongToOnePoolAtATime) {
  const std::string path = block_path_of("suite");
  {
    const auto pool = NvmeDevice::open({.name = "n", .path = path_of("suite"), .size_bytes = 8 * mib});
    ASSERT_TRUE(pool) << pool.error().message;
    EXPECT_HAS(refusal(path), "in use by this process");
    EXPECT_TRUE(nlohmann::json::parse(kvpool("stat --json " + path).output)["in_use"].get<bool>());
  }
  const auto pool = open(path);
  ASSERT_TRUE(pool) << pool.error().message;
  const auto other = NvmeDevice::open({.name = "n", .path = path_of("suite"), .size_bytes = 8 * mib});
  ASSERT_FALSE(other);
  EXPECT_HAS(other.error().message, "is in use by the kernel or another process");
  EXPECT_HAS(kvpool("device list").output, "holds a pool; is open in process ");
  const Outcome told = kvpool("stat --json " + path);
  ASSERT_EQ(told.status, 0) << told.errors;
  const auto stat = nlohmann::json::parse(told.output);
  EXPECT_EQ(stat["in_use"], true);
  EXPECT_EQ(stat["file_bytes"], 48 * mib);
  EXPECT_EQ(stat["size_bytes"], 8 * mib);
}

// A pool of a disk, a partition and a drive by its own commands, without a profile: each is opened for the
// quick probe, and again at once.
TEST_F(BlockDrives, MakeAPool) {
  const std::string partition = block_path_of("partitions") + "p1";
  std::ofstream trace("/tmp/blocks.jsonl");
  for (int request = 0; request < 8; ++request) {
    trace << R"({"timestamp":)" << request << R"(,"input_length":1024,"output_length":1,"hash_ids":[)"
          << 2 * (request / 2) << "," << 2 * (request / 2) + 1 << "]}\n";
  }
  trace.close();
  std::ofstream config("/tmp/blocks.toml");
  config << "[pool]\nstaging = \"12MiB\"\nbuffers = \"8MiB\"\n"
         << "[[device]]\nkind = \"file\"\nsize = \"8MiB\"\npath = \"" << block_path_of("suite") << "\"\n"
         << "[[device]]\nkind = \"file\"\nsize = \"8MiB\"\npath = \"" << partition << "\"\n"
         << "[[device]]\nkind = \"nvme\"\nsize = \"8MiB\"\npath = \"" << path_of("middle") << "\"\n";
  config.close();
  const Outcome replayed =
      kvpool("replay /tmp/blocks.jsonl --config /tmp/blocks.toml --bytes-per-token 256 --json");
  ASSERT_EQ(replayed.status, 0) << replayed.errors;
  const auto result = nlohmann::json::parse(replayed.output);
  EXPECT_EQ(result["blocks"], 16);
  EXPECT_EQ(result["hit_blocks"], 8);
  EXPECT_EQ(result["wrong_blocks"], 0);
}

}  // namespace
}  // namespace kvpool
