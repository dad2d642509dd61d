// The plug-in's own logic against a double of SPDK: no figure of it says anything about SPDK.

#include "io/spdk/plugin/spdk_device.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <cstdlib>
#include <cstring>
#include <thread>

#include "base/units.h"
#include "io/spdk/double/spdk_double.h"
#include "io/spdk/plugin/spdk_env.h"

namespace kvpool {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr uint32_t queue_depth = 8;
constexpr Nanos io_timeout = milliseconds(100);

#define EXPECT_HAS(text, part) EXPECT_NE(std::string(text).find(part), std::string::npos) << (text)

class SpdkDeviceTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(SpdkEnv::instance().start({.pci = false}));
    spdk_double::add_drive("drive", {});
    memory_ = {static_cast<std::byte*>(std::aligned_alloc(2 * mib, 4 * mib)), 4 * mib};
    std::memset(memory_.data(), 0x5a, memory_.size());
  }
  void TearDown() override {
    device_.reset();
    std::free(memory_.data());
    const spdk_double::Counts counts = spdk_double::counts();
    EXPECT_EQ(counts.controllers, 0U);
    EXPECT_EQ(counts.queue_pairs, 0U);
    EXPECT_EQ(counts.registered_regions, 0U);
    EXPECT_EQ(counts.commands_over_size, 0U);
    EXPECT_EQ(counts.freed_before_failing, 0U);
    EXPECT_EQ(counts.env_inits, 1U);
    spdk_double::forget_drives();
  }

  static SpdkDeviceOptions options(const std::string& address = "trtype:PCIe traddr:drive") {
    return {.name = "spdk0",
            .address = address,
            .size_bytes = 8 * mib,
            .queue_depth = queue_depth,
            .io_timeout = io_timeout};
  }
  static std::string refusal(const SpdkDeviceOptions& wanted) {
    SpdkDevice device(wanted);
    const Status attached = device.attached();
    return attached ? "none" : attached.error().message;
  }
  void open() {
    device_ = std::make_unique<SpdkDevice>(options());
    const Status attached = device_->attached();
    ASSERT_TRUE(attached) << attached.error().message;
    const Status started = device_->start(std::span(&memory_, 1));
    ASSERT_TRUE(started) << started.error().message;
  }
  [[nodiscard]] bool submit(IoKind kind, uint64_t offset, uint32_t length, std::byte* buffer,
                            uint64_t tag = 1) {
    return device_->submit(
        {.kind = kind, .offset = ByteOffset(offset), .length_bytes = length, .buffer = buffer, .tag = tag});
  }
  IoCompletion wait_for_one() {
    IoCompletion done;
    const auto until = steady_clock::now() + std::chrono::seconds(10);
    while (device_->poll(std::span(&done, 1)) == 0) {
      if (steady_clock::now() > until) {
        ADD_FAILURE() << "nothing came";
        break;
      }
      sleep_as_engine();
    }
    return done;
  }
  // Never longer than the device lets it.
  void sleep_as_engine() const {
    const Nanos next = device_->next_event_time();
    const Nanos now = SteadyClock().now();
    if (next <= now) return;
    const int wait_ms = next == never ? 1000 : static_cast<int>((next - now) / milliseconds(1)) + 1;
    pollfd readable{.fd = device_->wait_fd(), .events = POLLIN, .revents = 0};
    ::poll(&readable, 1, wait_ms);
  }
  bool becomes_online(bool wanted) {
    const auto until = steady_clock::now() + std::chrono::seconds(10);
    while (steady_clock::now() < until) {
      IoCompletion none;
      EXPECT_EQ(device_->poll(std::span(&none, 1)), 0U);
      if (device_->online() == wanted) return true;
      sleep_as_engine();
    }
    return false;
  }

  std::span<std::byte> memory_;
  std::unique_ptr<SpdkDevice> device_;
};

TEST_F(SpdkDeviceTest, TakesItsLimitsFromTheDrive) {
  open();
  EXPECT_EQ(device_->limits().transfer_bytes_max, 256U << 10);
  EXPECT_EQ(device_->limits().size_bytes, 8 * mib);
  EXPECT_EQ(device_->limits().alignment_bytes, 4096U);
  spdk_double::add_drive("odd", {.block_bytes = 8192, .transfer_bytes_max = 300'000, .queue_entries_max = 5});
  device_ = std::make_unique<SpdkDevice>(options("trtype:PCIe traddr:odd"));
  ASSERT_TRUE(device_->attached());
  EXPECT_EQ(device_->limits().transfer_bytes_max, 256U << 10) << "a power of two";
  EXPECT_EQ(device_->limits().alignment_bytes, 8192U);
  EXPECT_EQ(device_->limits().queue_depth_max, 4U);
}

TEST_F(SpdkDeviceTest, SaysWhatIsWrongWithADriveAndLeavesItAlone) {
  EXPECT_HAS(refusal(options("trtype:PCIe traddr:nowhere")), "no controller can be attached");
  EXPECT_HAS(refusal(options("trtype:RDMA traddr:drive")), "has no transport RDMA");
  SpdkDeviceOptions other = options();
  other.namespace_id = 7;
  EXPECT_HAS(refusal(other),
             "namespace 7 of 'trtype:PCIe traddr:drive' is not there; the first of the controller is ns:1");
  other = options();
  other.size_bytes = 95 * mib;
  EXPECT_HAS(refusal(other), "has room for 94 MiB");
  spdk_double::add_drive("metadata", {.metadata_bytes = 8});
  EXPECT_HAS(refusal(options("trtype:PCIe traddr:metadata")), "8 bytes of metadata");
  spdk_double::add_drive("small", {.transfer_bytes_max = 2048});
  EXPECT_HAS(refusal(options("trtype:PCIe traddr:small")), "moves 2048 bytes at once");
  for (const uint64_t at : {uint64_t{0}, 5 * mib, 96 * mib - 1}) {
    spdk_double::add_drive("foreign", {});
    spdk_double::bytes_of("foreign")[at] = std::byte{7};
    const std::vector<std::byte> before = spdk_double::bytes_of("foreign");
    EXPECT_HAS(refusal(options("trtype:PCIe traddr:foreign")), "holds data that kvpool did not write");
    EXPECT_EQ(before, spdk_double::bytes_of("foreign"));
  }
}

TEST_F(SpdkDeviceTest, ANamespaceIsOfOnePool) {
  open();
  EXPECT_HAS(refusal(options()), "is another device's in this process");
  // By another address, as another process would.
  EXPECT_HAS(refusal(options("trtype:PCIe traddr:drive trsvcid:2")),
             "in use by another pool of this machine");
  device_.reset();
  EXPECT_EQ(refusal(options()), "none") << "and free again";
}

TEST_F(SpdkDeviceTest, MovesDataStraightAndReachesNoOtherMemory) {
  open();
  EXPECT_TRUE(device_->reaches(memory_.data() + 4096, 4096));
  EXPECT_FALSE(device_->reaches(memory_.data() + memory_.size() - 4096, 8192));
  std::byte elsewhere{};
  EXPECT_FALSE(device_->reaches(&elsewhere, 1));
  EXPECT_EQ(memory_[0], std::byte{0x5a}) << "trying the memory has left its bytes alone";
  std::memset(memory_.data(), 1, mib);
  ASSERT_TRUE(submit(IoKind::write, mib, 256 << 10, memory_.data()));
  EXPECT_EQ(wait_for_one().code, Errc::ok);
  EXPECT_EQ(spdk_double::bytes_of("drive")[2 * mib], std::byte{1}) << "behind the header's MiB";
  ASSERT_TRUE(submit(IoKind::read, mib, 256 << 10, memory_.data() + 2 * mib));
  const IoCompletion done = wait_for_one();
  EXPECT_EQ(done.bytes, 256U << 10);
  EXPECT_EQ(std::memcmp(memory_.data(), memory_.data() + 2 * mib, 256 << 10), 0);
}

TEST_F(SpdkDeviceTest, MemoryThatTheDriveCannotReachIsFoundOutAtTheStart) {
  device_ = std::make_unique<SpdkDevice>(options());
  ASSERT_TRUE(device_->attached());
  spdk_double::fail_next("drive", 1);
  const Status started = device_->start(std::span(&memory_, 1));
  ASSERT_FALSE(started);
  EXPECT_HAS(started.error().message, "cannot read into pool memory");
}

TEST_F(SpdkDeviceTest, AConsumersMemoryIsReachedThroughAnIommu) {
  // Whole pages of it: neither its beginning nor its end lies on a boundary.
  const std::unique_ptr<std::byte, decltype(&std::free)> own(
      static_cast<std::byte*>(std::aligned_alloc(2 * mib, 8 * mib)), &std::free);
  std::byte* const first_page = own.get() + 2 * mib;
  for (const bool iommu : {false, true}) {
    spdk_double::set_iommu(iommu);
    device_.reset();  // the drive is of one pool
    device_ = std::make_unique<SpdkDevice>(options());
    ASSERT_TRUE(device_->attached());
    std::memset(own.get(), 0x77, 8 * mib);
    device_->offer({own.get() + 4096, 7 * mib});
    ASSERT_TRUE(device_->start(std::span(&memory_, 1)));
    EXPECT_EQ(std::count(own.get(), own.get() + 8 * mib, std::byte{0x77}), 8 * mib);
    EXPECT_FALSE(device_->reaches(first_page - 4096, 8192));
    EXPECT_FALSE(device_->reaches(first_page + 4 * mib, 4096));
    ASSERT_EQ(device_->reaches(first_page, 4 * mib), iommu);
  }
  ASSERT_TRUE(submit(IoKind::write, 0, 4096, memory_.data()));
  EXPECT_EQ(wait_for_one().code, Errc::ok);
  ASSERT_TRUE(submit(IoKind::read, 0, 4096, first_page));
  EXPECT_EQ(wait_for_one().code, Errc::ok);
  EXPECT_EQ(std::memcmp(first_page, memory_.data(), 4096), 0);
  device_.reset();
  spdk_double::set_iommu(false);
}

TEST_F(SpdkDeviceTest, ACommandThatFailsIsAnErrorAndNoMore) {
  open();
  spdk_double::fail_next("drive", 1);
  ASSERT_TRUE(submit(IoKind::read, 0, 4096, memory_.data(), 5));
  const IoCompletion done = wait_for_one();
  EXPECT_EQ(done.code, Errc::io_error);
  EXPECT_EQ(done.tag, 5U);
  EXPECT_EQ(done.bytes, 0U);
  EXPECT_TRUE(device_->online());
  ASSERT_TRUE(submit(IoKind::read, 0, 4096, memory_.data()));
  EXPECT_EQ(wait_for_one().code, Errc::ok);
}

class LostDrive : public SpdkDeviceTest, public testing::WithParamInterface<bool> {
 protected:
  static void lose() {
    GetParam() ? spdk_double::fall_silent("drive") : spdk_double::break_connection("drive");
  }
};
INSTANTIATE_TEST_SUITE_P(All, LostDrive, testing::Bool(),
                         [](const auto& silent) { return silent.param ? "silent" : "broken"; });

TEST_P(LostDrive, EndsWhatIsUnderWayOnceAndFailsWhatComes) {
  open();
  for (uint32_t i = 0; i < queue_depth; ++i) {
    ASSERT_TRUE(submit(IoKind::read, i * 4096ULL, 4096, memory_.data() + size_t{i} * 4096, 100 + i));
  }
  EXPECT_FALSE(submit(IoKind::read, 0, 4096, memory_.data())) << "it is full";
  lose();
  const auto begin = steady_clock::now();
  std::array<int, queue_depth> seen{};
  for (uint32_t i = 0; i < queue_depth; ++i) {
    const IoCompletion done = wait_for_one();
    EXPECT_EQ(done.code, Errc::io_error);
    EXPECT_EQ(seen.at(done.tag - 100)++, 0);
  }
  EXPECT_LT(steady_clock::now() - begin, std::chrono::seconds(5));
  EXPECT_FALSE(device_->online());
  ASSERT_TRUE(submit(IoKind::write, 0, 4096, memory_.data()));
  EXPECT_EQ(wait_for_one().code, Errc::io_error);
}

TEST_P(LostDrive, IsTakenBackWithWhatItHeld) {
  open();
  ASSERT_TRUE(submit(IoKind::write, 0, 4096, memory_.data()));
  EXPECT_EQ(wait_for_one().code, Errc::ok);
  lose();
  ASSERT_TRUE(submit(IoKind::read, 0, 4096, memory_.data()));
  EXPECT_EQ(wait_for_one().code, Errc::io_error);
  EXPECT_TRUE(becomes_online(false));
  spdk_double::come_back("drive", false);
  EXPECT_TRUE(becomes_online(true));
  std::memset(memory_.data(), 0, 4096);
  ASSERT_TRUE(submit(IoKind::read, 0, 4096, memory_.data()));
  EXPECT_EQ(wait_for_one().code, Errc::ok);
  EXPECT_EQ(memory_[17], std::byte{0x5a});
}

TEST_P(LostDrive, IsTakenBackEmptyAndNotWithAnothersData) {
  open();
  const std::vector<std::byte> header(spdk_double::bytes_of("drive").begin(),
                                      spdk_double::bytes_of("drive").begin() + 4096);
  lose();
  ASSERT_TRUE(submit(IoKind::read, 0, 4096, memory_.data()));
  EXPECT_EQ(wait_for_one().code, Errc::io_error);
  spdk_double::come_back("drive", true);
  EXPECT_TRUE(becomes_online(true));
  EXPECT_TRUE(std::equal(header.begin(), header.end(), spdk_double::bytes_of("drive").begin()));
  lose();
  ASSERT_TRUE(submit(IoKind::read, 0, 4096, memory_.data()));
  EXPECT_EQ(wait_for_one().code, Errc::io_error);
  EXPECT_TRUE(becomes_online(false));
  auto& bytes = spdk_double::bytes_of("drive");
  std::ranges::fill(bytes, std::byte{0});
  bytes[3 * mib] = std::byte{9};
  spdk_double::come_back("drive", false);
  std::this_thread::sleep_for(milliseconds(1500));  // two tries
  EXPECT_FALSE(device_->online());
  EXPECT_EQ(spdk_double::bytes_of("drive")[0], std::byte{0});
}

TEST_F(SpdkDeviceTest, AnIdleDriveWhoseConnectionBreaksIsNoticedAndTakenBack) {
  open();
  spdk_double::break_connection("drive");
  EXPECT_TRUE(becomes_online(false));
  spdk_double::come_back("drive", false);
  EXPECT_TRUE(becomes_online(true));
}

TEST_F(SpdkDeviceTest, ANamespaceThatMayBeAnotherIsLookedAtAnew) {
  open();
  spdk_double::change_namespaces("drive");
  EXPECT_TRUE(becomes_online(false));
  EXPECT_TRUE(becomes_online(true));
  auto& bytes = spdk_double::bytes_of("drive");
  std::ranges::fill(bytes, std::byte{0});
  bytes[3 * mib] = std::byte{9};
  spdk_double::change_namespaces("drive");
  EXPECT_TRUE(becomes_online(false));
  std::this_thread::sleep_for(milliseconds(1200));  // two tries
  EXPECT_FALSE(device_->online());
}

TEST_F(SpdkDeviceTest, MayGoWithCommandsUnderWay) {
  open();
  for (uint32_t i = 0; i < queue_depth; ++i) {
    ASSERT_TRUE(submit(IoKind::read, i * 4096ULL, 4096, memory_.data() + size_t{i} * 4096));
  }
  device_.reset();
}

TEST_F(SpdkDeviceTest, ATargetThatFellSilentHoldsNoCloseUp) {
  open();
  spdk_double::fall_silent("drive");
  const auto begin = steady_clock::now();
  device_.reset();
  EXPECT_LT(steady_clock::now() - begin, std::chrono::seconds(2));
  spdk_double::forget_drives();  // nobody could know that it was to be failed first
}

TEST_P(LostDrive, MayBeClosedMeanwhile) {
  open();
  for (uint32_t i = 0; i < queue_depth; ++i) {
    ASSERT_TRUE(submit(IoKind::read, i * 4096ULL, 4096, memory_.data() + size_t{i} * 4096));
  }
  lose();
  if (!GetParam()) {
    EXPECT_EQ(wait_for_one().code, Errc::io_error);
    return;
  }
  std::this_thread::sleep_for(io_timeout);
  EXPECT_EQ(wait_for_one().code, Errc::io_error);
}

TEST(SpdkEnvironmentTest, StartsOnceAndSaysWhatItCannotDoAnyMore) {
  ASSERT_TRUE(SpdkEnv::instance().start({.pci = false}));
  const Status pci = SpdkEnv::instance().start({.pci = true});
  ASSERT_FALSE(pci);
  EXPECT_HAS(pci.error().message, "SPDK runs in this process without PCIe already");
}

}  // namespace
}  // namespace kvpool
