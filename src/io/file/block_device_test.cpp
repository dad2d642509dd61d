// Pool files that are block devices, on loop devices. SKIP where the user may not make any; tests/vm has
// drives, partitions, mounts and swap.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "base/units.h"
#include "io/file/file_device.h"

namespace kvpool {
namespace {

constexpr uint64_t disk_bytes = 72 * mib;

class BlockDevices : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "kvpool_block_XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    std::ofstream(image()).close();
    std::filesystem::resize_file(image(), disk_bytes);
    attach("");
    if (disk_.empty())
      GTEST_SKIP() << "losetup makes no loop device here: it needs root and the kernel's loop driver";
  }
  void TearDown() override {
    detach();
    std::filesystem::remove_all(folder_);
  }
  void attach(const std::string& options) {
    FILE* pipe = popen(("losetup " + options + " --find --show " + image() + " 2>/dev/null").c_str(), "r");
    std::array<char, 256> line{};
    if (pipe != nullptr && std::fgets(line.data(), line.size(), pipe) != nullptr) disk_ = line.data();
    if (pipe != nullptr && pclose(pipe) != 0) disk_.clear();
    if (!disk_.empty()) disk_.pop_back();
  }
  void detach() {
    if (!disk_.empty()) (void)std::system(("losetup --detach " + disk_).c_str());
    disk_.clear();
  }
  [[nodiscard]] std::string image() const { return folder_ + "/disk"; }
  [[nodiscard]] std::string bytes() const {
    std::ifstream file(image(), std::ios::binary);
    std::string all(std::filesystem::file_size(image()), '\0');
    file.read(all.data(), static_cast<std::streamsize>(all.size()));
    return all;
  }
  void put(uint64_t offset, const std::string& text) const {
    std::fstream file(disk_, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(offset));
    file << text;
  }
  // The message of a refusal that left the device as it was.
  [[nodiscard]] std::string refusal(uint64_t size_bytes = 8 * mib) const {
    const std::string before = bytes();
    const auto file = PoolFile::open(disk_, size_bytes);
    EXPECT_TRUE(before == bytes()) << "it was written to";
    return file ? "none" : file.error().message;
  }

  std::string folder_;
  std::string disk_;
};

#define EXPECT_HAS(text, part) EXPECT_NE(std::string(text).find(part), std::string::npos) << (text)

TEST_F(BlockDevices, HoldAPoolFromTheirFirstByteOn) {
  {
    const auto file = PoolFile::open(disk_, 8 * mib);
    ASSERT_TRUE(file) << file.error().message;
    EXPECT_TRUE(file->direct());
    EXPECT_EQ(file->header().size_bytes, 8 * mib);
    EXPECT_EQ(file->header().alignment_bytes, 4096U);
    const std::string all = bytes();
    EXPECT_EQ(all.size(), disk_bytes);
    EXPECT_EQ(all.substr(0, 8), "KVPOOL\r\n");
    EXPECT_EQ(all.find_first_not_of('\0', 4096), std::string::npos);
    const auto info = inspect_pool_file(disk_);
    ASSERT_TRUE(info) << info.error().message;
    EXPECT_TRUE(info->in_use);
    EXPECT_EQ(info->file_bytes, disk_bytes);
    EXPECT_EQ(info->header.uuid, file->header().uuid);
    EXPECT_HAS(refusal(), "in use by this process already");
    // Nobody can mount it meanwhile.
    EXPECT_LT(::open(disk_.c_str(), O_RDONLY | O_EXCL | O_CLOEXEC), 0);
  }
  EXPECT_FALSE(inspect_pool_file(disk_)->in_use);
  put(2 * mib, "what a pool leaves");
  const auto again = PoolFile::open(disk_, 70 * mib);
  ASSERT_TRUE(again) << again.error().message;
}

TEST_F(BlockDevices, ThatHoldSomethingAreRefusedAndLeftAlone) {
  for (const uint64_t offset : {uint64_t{0}, uint64_t{4096}, 63 * mib, disk_bytes - 1}) {
    put(offset, "x");
    EXPECT_HAS(refusal(), "holds data that kvpool did not write; it was left alone");
    put(offset, std::string(1, '\0'));
  }
  const auto nothing = inspect_pool_file(disk_);
  ASSERT_FALSE(nothing);
  EXPECT_EQ(nothing.error().code, Errc::not_ours);
  ASSERT_EQ(std::system(("mkswap " + disk_ + " >/dev/null 2>&1").c_str()), 0);
  EXPECT_HAS(refusal(), "did not write (swap); it was left alone");
}

TEST_F(BlockDevices, ThatSomebodyTookAfterAPoolAreRefused) {
  ASSERT_TRUE(PoolFile::open(disk_, 8 * mib));
  put(4096, "x");
  EXPECT_HAS(refusal(), "holds data that kvpool did not write");
}

TEST_F(BlockDevices, ThatOthersHoldAreRefused) {
  const int held = ::open(disk_.c_str(), O_RDONLY | O_EXCL | O_CLOEXEC);
  ASSERT_GE(held, 0);
  EXPECT_HAS(refusal(), "is in use by the kernel or another process");
  close(held);
  EXPECT_TRUE(PoolFile::open(disk_, 8 * mib));
}

TEST_F(BlockDevices, ThatCannotHoldItAreRefused) {
  EXPECT_HAS(refusal(71 * mib), "71 MiB do not fit, it has room for 70 MiB");
  detach();
  attach("--read-only");
  EXPECT_HAS(refusal(), "is read-only");
  detach();
  std::filesystem::resize_file(image(), mib);
  attach("");
  EXPECT_HAS(refusal(), "has 1 MiB only");
}

// The probe opens, measures, closes; then the pool opens. The kernel lets go of a ring's files a little
// later.
TEST_F(BlockDevices, CanBeOpenedAgainAtOnce) {
  for (int i = 0; i < 3; ++i) {
    auto device = FileDevice::open({.name = "d", .path = disk_, .size_bytes = 8 * mib});
    if (!device && device.error().code == Errc::unsupported) GTEST_SKIP() << device.error().message;
    ASSERT_TRUE(device) << device.error().message;
    ASSERT_TRUE((*device)->start({}));
  }
}

TEST(BlockDeviceNames, ThatAreMistypedBecomeNoFile) {
  const std::string path = "/dev/kvpool_no_such_device";
  std::error_code ignored;
  if (std::filesystem::is_regular_file("/dev/null", ignored)) GTEST_SKIP() << "there are no devices here";
  const auto file = PoolFile::open(path, mib);
  ASSERT_FALSE(file);
  EXPECT_FALSE(std::filesystem::exists(path));
  EXPECT_HAS(file.error().message, "there is no such device, and a file in /dev would lie in memory");
}

}  // namespace
}  // namespace kvpool
