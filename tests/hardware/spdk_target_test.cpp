// Pools over real SPDK and real targets of it: each of two drives in a process of its own, which can be
// killed, stopped, slow, or fail. SKIP where SPDK is not installed.

#include "tests/hardware/spdk_target.h"

#include <memory>

#include "api/pool_fixture.h"
#include "base/prng.h"
#include "base/units.h"
#include "config/spdk_address.h"
#include "io/spdk/spdk_plugin.h"

namespace kvpool {
namespace {

using api_test::Batch;
using api_test::Client;
using api_test::Ends;
using api_test::Shape;
using std::chrono::steady_clock;

constexpr std::chrono::seconds io_timeout(2);
// A document of 48 blocks of 1 MiB.
constexpr uint32_t blocks = 48;

Shape large_segments() { return {.name = "large", .segment_bytes = {262144, 262144, 262144, 262144}}; }

class SpdkPool : public api_test::PoolTest, public testing::WithParamInterface<std::string> {
 protected:
  void SetUp() override {
    const std::string missing = SpdkTarget::missing();
    if (!missing.empty()) GTEST_SKIP() << missing;
    if (const auto plugin = load_spdk(); !plugin) GTEST_SKIP() << plugin.error().message;
    PoolTest::SetUp();
  }
  void TearDown() override {
    if (folder_.empty()) return;
    if (pool_ != nullptr) PoolTest::TearDown();
    targets_.clear();
    std::filesystem::remove_all(folder_);
  }

  void start(const SpdkTarget::Drive& first, const SpdkTarget::Drive& second) {
    const auto add = [&](const std::string& name, uint16_t port, const SpdkTarget::Drive& drive) {
      targets_.push_back(std::make_unique<SpdkTarget>(
          SpdkTarget::Options{.name = name, .transport = GetParam(), .port = port, .drive = drive}, folder_));
    };
    add("first", 4430, first);
    add("second", 4431, second);
  }
  // Equal shares of memory and both drives, or of the drives alone.
  void open_pool(bool with_memory) {
    std::vector<std::string> names;
    std::string text =
        "[pool]\nplacement = \"equal\"\nstaging = \"16MiB\"\nbuffers = \"80MiB\"\nprofile = \"" + folder_ +
        "/profile.json\"\n[limits]\ndeadline = \"6s\"\n";
    if (with_memory) text += "[[device]]\nkind = \"memory\"\nname = \"memory\"\nsize = \"64MiB\"\n";
    for (const auto& target : targets_) {
      text += "[[device]]\nkind = \"spdk\"\nsize = \"100MiB\"\nio_timeout = \"2s\"\npath = \"" +
              target->address() + "\"\n";
    }
    // Probing is for others to test.
    Profile profile{.devices = {}, .measured_at = "2026-01-01T00:00:00Z", .conditions = "made up"};
    if (with_memory) profile.devices.push_back(made_up("memory", false));
    for (size_t i = 0; i < targets_.size(); ++i) {
      profile.devices.push_back(made_up("spdk" + std::to_string(i), true));
      profile.devices.back().measured_as = "spdk " + targets_[i]->address();
    }
    if (with_memory) profile.devices[0].measured_as = "memory";
    ASSERT_TRUE(save_profile(folder_ + "/profile.json", profile));
    open(text);
    shape_ = make(large_segments());
  }
  static DeviceProfile made_up(const std::string& name, bool storage) {
    return {.name = name,
            .read_bytes_per_second = 1e9,
            .write_bytes_per_second = 1e9,
            .read_latency = std::chrono::microseconds(100),
            .write_latency = std::chrono::microseconds(100),
            .queue_bytes = 8 << 20,
            .storage = storage};
  }

  // Reads the document back; how many blocks came. Wrong bytes fail the test.
  uint32_t read_back(Client& client, uint64_t first_key, uint32_t count) {
    client.reuse();
    const Batch batch = client.batch(shape_, {.first_key = first_key, .blocks = count});
    const Ends ends = client.run(kvpool_retrieve, Client::request(shape_, batch));
    const uint32_t came = ends.result.blocks;
    EXPECT_TRUE(batch.holds(came));
    return came;
  }
  static void move(Device& device, const IoRequest& request) {
    ASSERT_TRUE(device.submit(request));
    IoCompletion done;
    while (device.poll(std::span(&done, 1)) == 0) {
    }
    ASSERT_EQ(done.code, Errc::ok);
    ASSERT_EQ(done.bytes, request.length_bytes);
  }
  // Until a store writes to that device again.
  bool is_used_again(Client& client, uint32_t device, uint64_t first_key) {
    const uint64_t before = device_stats(device).written_bytes;
    const auto until = steady_clock::now() + std::chrono::seconds(20);
    for (uint64_t key = first_key; steady_clock::now() < until; key += blocks) {
      EXPECT_EQ(store(client, shape_, key, 8).status(), KVPOOL_OK);
      if (device_stats(device).written_bytes > before) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
    }
    return false;
  }

  std::vector<std::unique_ptr<SpdkTarget>> targets_;
  Shape shape_;
};

INSTANTIATE_TEST_SUITE_P(All, SpdkPool, testing::Values("TCP", "VFIOUSER"),
                         [](const auto& transport) { return transport.param; });

// Borders of huge pages among them: each is mapped for itself.
TEST_P(SpdkPool, ADeviceMovesBytesBetweenAnyPlaces) {
  start({.size_mib = 64}, {.size_mib = 64});
  SpdkPlugin* const plugin = *load_spdk();
  ASSERT_TRUE(plugin->start({.own_memory_bytes = 16 * mib}));
  const auto memory = plugin->take(16 * mib, -1);
  ASSERT_TRUE(memory) << memory.error().message;
  {
    const auto address = parse_spdk_address(targets_[0]->address());
    const SpdkDeviceOptions options{
        .name = "spdk0", .address = address->controller, .size_bytes = 16 * mib, .queue_depth = 4};
    auto opened = plugin->open(std::span(&options, 1));
    ASSERT_TRUE(opened) << opened.error().message;
    Device& device = *opened->front();
    ASSERT_TRUE(device.start(std::span(&*memory, 1)));
    Prng prng(1);
    for (int round = 0; round < 300; ++round) {
      const uint32_t pages =
          1 + static_cast<uint32_t>(prng.next() % (device.limits().transfer_bytes_max / 4096));
      const uint32_t length = pages * 4096;
      const auto place = [&] { return prng.next() % ((8 * mib - length) / 4096) * 4096; };
      const std::span<std::byte> from = memory->subspan(place(), length);
      const std::span<std::byte> to = memory->subspan(8 * mib + place(), length);
      const ByteOffset offset(place());
      for (std::byte& b : from) b = static_cast<std::byte>(prng.next());
      move(device, {.kind = IoKind::write, .offset = offset, .length_bytes = length, .buffer = from.data()});
      move(device, {.kind = IoKind::read, .offset = offset, .length_bytes = length, .buffer = to.data()});
      const auto differs = std::ranges::mismatch(from, to).in1;
      ASSERT_EQ(differs, from.end()) << "round " << round << ": " << length << " bytes at " << offset.value
                                     << " differ from byte " << differs - from.begin() << ", from "
                                     << from.data() - memory->data() << " to " << to.data() - memory->data();
    }
  }
  plugin->give_back(*memory);
}

TEST_P(SpdkPool, StoresAndReadsBackOverUnequalDrives) {
  start({.size_mib = 128, .megabytes_per_second = 400}, {.size_mib = 128, .megabytes_per_second = 200});
  open_pool(true);
  Client client(pool_, 64 * mib);
  ASSERT_EQ(store(client, shape_, 1, blocks).status(), KVPOOL_OK);
  EXPECT_EQ(read_back(client, 1, blocks), blocks);
  for (uint32_t device = 0; device < 3; ++device)
    EXPECT_GT(device_stats(device).read_bytes, 8 * mib) << device;
  EXPECT_EQ(stats().bounced_bytes, 0U);
}

TEST_P(SpdkPool, ATargetThatIsKilledInMidRetrievalCostsItsBlocksAndNothingElse) {
  start({.size_mib = 128, .megabytes_per_second = 20}, {.size_mib = 128});
  open_pool(true);
  Client client(pool_, 64 * mib);
  ASSERT_EQ(store(client, shape_, 1, 24).status(), KVPOOL_OK);
  client.reuse();
  const Batch batch = client.batch(shape_, {.first_key = 1, .blocks = 24});
  const kvpool_ticket ticket = client.send(kvpool_retrieve, Client::request(shape_, batch));
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  const auto killed_at = steady_clock::now();
  targets_[0]->kill();
  const Ends ends = client.finish(ticket);
  EXPECT_LT(steady_clock::now() - killed_at, 2 * io_timeout);
  EXPECT_LT(ends.result.blocks, 24U);
  EXPECT_TRUE(batch.holds(ends.result.blocks));
  // It serves on from what is left.
  ASSERT_EQ(store(client, shape_, 1000, 24).status(), KVPOOL_OK);
  const uint64_t lost_written = device_stats(1).written_bytes;
  ASSERT_EQ(store(client, shape_, 2000, 24).status(), KVPOOL_OK);
  EXPECT_EQ(device_stats(1).written_bytes, lost_written);
  // And takes it back.
  targets_[0]->start();
  EXPECT_TRUE(is_used_again(client, 1, 10'000));
}

TEST_P(SpdkPool, ATargetThatIsStoppedHoldsNobodyUp) {
  start({.size_mib = 128}, {.size_mib = 128});
  open_pool(true);
  Client client(pool_, 64 * mib);
  ASSERT_EQ(store(client, shape_, 1, 24).status(), KVPOOL_OK);
  targets_[0]->stop();
  client.reuse();
  const Batch batch = client.batch(shape_, {.first_key = 1, .blocks = 24});
  const auto begin = steady_clock::now();
  const Ends ends = client.wait_result(client.send(kvpool_retrieve, Client::request(shape_, batch)));
  // By the deadline at the latest: a vfio-user target answers nothing at all, not even that it is left.
  EXPECT_LT(steady_clock::now() - begin, std::chrono::seconds(7));
  EXPECT_TRUE(batch.holds(ends.result.blocks));
  targets_[0]->go_on();
  EXPECT_TRUE(is_used_again(client, 1, 10'000));
}

TEST_P(SpdkPool, CommandsThatFailCostTheirBlocks) {
  start({.size_mib = 128, .with_faults = true}, {.size_mib = 128});
  open_pool(false);
  Client client(pool_, 64 * mib);
  ASSERT_EQ(store(client, shape_, 1, 24).status(), KVPOOL_OK);
  targets_[0]->fail_next("read", 3);
  EXPECT_LT(read_back(client, 1, 24), 24U);
  ASSERT_EQ(store(client, shape_, 1000, 24).status(), KVPOOL_OK);
  EXPECT_EQ(read_back(client, 1000, 24), 24U);
}

TEST_P(SpdkPool, ADriveMayBeSlow) {
  start({.size_mib = 128, .delay_us = 10'000}, {.size_mib = 128});
  open_pool(true);
  Client client(pool_, 64 * mib);
  ASSERT_EQ(store(client, shape_, 1, 16).status(), KVPOOL_OK);
  EXPECT_EQ(read_back(client, 1, 16), 16U);
  EXPECT_EQ(device_stats(1).errors, 0U);
}

}  // namespace
}  // namespace kvpool
