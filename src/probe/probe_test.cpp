#include "probe/probe.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <set>

#include "base/units.h"
#include "io/cap_device.h"
#include "io/fault_device.h"
#include "io/memory/memory_device.h"
#include "io/null/null_device.h"
#include "io/sim/sim_device.h"
#include "io/sim/sim_transfer.h"
#include "probe/load.h"
#include "xfer/host/host_transfer.h"

namespace kvpool {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::seconds;

// Steps the clock to the next thing that happens.
class VirtualWaiter final : public Waiter {
 public:
  explicit VirtualWaiter(VirtualClock& clock) : clock_(clock) {}
  void wait(std::span<Device* const> devices, const Transfer& transfer, Nanos until) override {
    Nanos next = std::min(until, transfer.next_event_time());
    for (const Device* device : devices) next = std::min(next, device->next_event_time());
    ASSERT_LT(next, never) << "waits for nothing";
    clock_.advance_to(std::max(next, clock_.now()));
  }

 private:
  VirtualClock& clock_;
};

// Fails the test when a place is read that was not written, or the device is used without start().
class WatchedDevice final : public Device {
 public:
  explicit WatchedDevice(std::unique_ptr<Device> lower) : lower_(std::move(lower)) {}
  [[nodiscard]] const std::string& name() const override { return lower_->name(); }
  [[nodiscard]] DeviceLimits limits() const override { return lower_->limits(); }
  Status start(std::span<const std::span<std::byte>> regions) override {
    started_ = true;
    return lower_->start(regions);
  }
  [[nodiscard]] bool submit(const IoRequest& request) override {
    EXPECT_TRUE(started_);
    if (!lower_->submit(request)) return false;
    ++in_flight_;
    for (uint64_t at = 0; at < request.length_bytes; at += 4096) {
      if (request.kind == IoKind::write) written_.insert(request.offset.value + at);
      if (request.kind == IoKind::read && written_.count(request.offset.value + at) == 0) ++unwritten_reads_;
    }
    return true;
  }
  [[nodiscard]] size_t poll(std::span<IoCompletion> out) override {
    const size_t count = lower_->poll(out);
    in_flight_ -= count;
    return count;
  }
  [[nodiscard]] Nanos next_event_time() const override { return lower_->next_event_time(); }

  [[nodiscard]] size_t in_flight() const { return in_flight_; }
  [[nodiscard]] uint64_t unwritten_reads() const { return unwritten_reads_; }

 private:
  std::unique_ptr<Device> lower_;
  std::set<uint64_t> written_;
  size_t in_flight_ = 0;
  uint64_t unwritten_reads_ = 0;
  bool started_ = false;
};

class Probe : public ::testing::Test {
 protected:
  SimDeviceOptions sim(const std::string& name, double read, double write) {
    return {.name = name,
            .size_bytes = 1024 * mib,
            .read_bytes_per_second = read,
            .write_bytes_per_second = write,
            .latency = microseconds(80),
            .transfer_bytes_max = 4 * mib,
            .keeps_bytes = false};
  }

  WatchedDevice& add(std::unique_ptr<Device> device, size_t staging_bytes = 17 * mib) {
    staging_memory_.emplace_back(staging_bytes);
    staging_.emplace_back(staging_memory_.back());
    owned_.push_back(std::make_unique<WatchedDevice>(std::move(device)));
    devices_.push_back(owned_.back().get());
    return *owned_.back();
  }
  WatchedDevice& add_sim(const std::string& name, double read, double write) {
    return add(std::make_unique<SimDevice>(clock_, sim(name, read, write)));
  }
  std::unique_ptr<FaultDevice> faulty(const std::string& name, const FaultOptions& options) {
    return std::make_unique<FaultDevice>(std::make_unique<SimDevice>(clock_, sim(name, 1e9, 1e9)), options,
                                         clock_);
  }

  Result<ProbeResult> run(const ProbeOptions& options = quick_probe()) {
    VirtualWaiter waiter(clock_);
    const Nanos start = clock_.now();
    auto result = probe(clock_, waiter, devices_, staging_, buffers_, {}, transfer_, options);
    took_ = clock_.now() - start;
    return result;
  }

  static void expect_near(double measured, double real) { EXPECT_NEAR(measured / real, 1, 0.03); }

  VirtualClock clock_;
  SimTransfer transfer_{clock_, {.workers = 2, .copy_bytes_per_second = 3e9, .moves_bytes = false}};
  std::vector<std::vector<std::byte>> staging_memory_;
  std::vector<std::span<std::byte>> staging_;
  std::vector<std::unique_ptr<WatchedDevice>> owned_;
  std::vector<Device*> devices_;
  std::vector<std::byte> buffer_memory_ = std::vector<std::byte>(16 * mib);
  std::span<std::byte> buffers_ = buffer_memory_;
  Nanos took_{0};
};

TEST_F(Probe, FindsRatesAndLatenciesOfStorage) {
  WatchedDevice& device = add_sim("ssd", 6e9, 2e9);
  const auto result = run();
  ASSERT_TRUE(result) << result.error().message;
  const DeviceProfile& profile = result->profile.devices[0];
  EXPECT_EQ(profile.name, "ssd");
  EXPECT_TRUE(profile.storage);
  expect_near(profile.read_bytes_per_second, 6e9);
  expect_near(profile.write_bytes_per_second, 2e9);
  expect_near(profile.together_bytes_per_second, 6e9);
  expect_near(static_cast<double>(profile.read_latency.count()), 80e3 + mib / 6.0);
  expect_near(static_cast<double>(profile.write_latency.count()), 80e3 + mib / 2.0);
  EXPECT_EQ(profile.queue_bytes, 0U);
  EXPECT_EQ(result->profile.link_bytes_per_second, 0);
  EXPECT_EQ(result->profile.measured_at.size(), 20U);
  EXPECT_FALSE(result->profile.conditions.empty());
  EXPECT_TRUE(result->points[0].empty());
  EXPECT_EQ(device.unwritten_reads(), 0U);
  EXPECT_EQ(device.in_flight(), 0U);
  EXPECT_LE(took_, seconds(1));
}

TEST_F(Probe, FindsCaps) {
  for (const uint64_t rate : {600'000'000, 150'000'000, 50'000'000}) {
    auto lower = std::make_unique<SimDevice>(clock_, sim("capped", 6e9, 6e9));
    add(std::make_unique<CapDevice>(std::move(lower), CapOptions{rate, rate / 2}, clock_));
  }
  const auto result = run();
  ASSERT_TRUE(result) << result.error().message;
  const std::vector<double> rates = {600e6, 150e6, 50e6};
  for (size_t i = 0; i < rates.size(); ++i) {
    SCOPED_TRACE(rates[i]);
    expect_near(result->profile.devices[i].read_bytes_per_second, rates[i]);
    expect_near(result->profile.devices[i].write_bytes_per_second, rates[i] / 2);
    expect_near(result->profile.devices[i].together_bytes_per_second, rates[i]);
  }
}

TEST_F(Probe, SlowDeviceTakesLittleLongerThanItsTime) {
  // Two at most may be in flight: 16 would take 0.4 s to come home, after each part of the measurement.
  add_sim("slow", 40e6, 40e6);
  const auto result = run();
  ASSERT_TRUE(result) << result.error().message;
  expect_near(result->profile.devices[0].read_bytes_per_second, 40e6);
  EXPECT_LE(took_, milliseconds(1250));
}

TEST_F(Probe, MeasuresUnequalDevicesTogether) {
  for (const double rate : {8e9, 3e9, 0.5e9}) {
    WatchedDevice& device = add_sim("d", rate, rate);
    EXPECT_EQ(device.in_flight(), 0U);
  }
  const auto result = run();
  ASSERT_TRUE(result) << result.error().message;
  expect_near(result->profile.devices[0].together_bytes_per_second, 8e9);
  expect_near(result->profile.devices[1].together_bytes_per_second, 3e9);
  expect_near(result->profile.devices[2].together_bytes_per_second, 0.5e9);
}

TEST_F(Probe, SweepFindsTheBytesInFlightThatSuffice) {
  // 80 us at 6 GB/s are 0.48 MB: one request of 1 MiB at a time reaches 69%, four reach all.
  WatchedDevice& device = add_sim("ssd", 6e9, 6e9);
  const auto result = run({.per_device = seconds(4), .together = Nanos{0}, .sweep = true});
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_EQ(result->profile.devices[0].queue_bytes, 4 * mib);
  EXPECT_EQ(result->profile.devices[0].together_bytes_per_second, 0);
  EXPECT_EQ(device.unwritten_reads(), 0U);
  EXPECT_LE(took_, seconds(4));
  const auto& points = result->points[0];
  // 32 requests of 4 MiB do not fit into the memory; nor do 32 of them get going in a moment.
  EXPECT_GE(points.size(), 2U * 20);
  const auto one_alone = std::ranges::find_if(points, [](const ProbePoint& point) {
    return point.kind == IoKind::read && point.size_bytes == 4096 && point.queue_depth == 1;
  });
  ASSERT_NE(one_alone, points.end());
  expect_near(one_alone->bytes_per_second, 4096 / (80e-6 + 4096 / 6e9));
}

TEST_F(Probe, MeasuresCopiesOfInPlaceDevices) {
  auto options = sim("memory", 100e9, 100e9);
  options.in_place = true;
  options.storage = false;
  add(std::make_unique<SimDevice>(clock_, options), 0);
  options.name = "slow memory";
  options.read_bytes_per_second = 2e9;
  add(std::make_unique<SimDevice>(clock_, options), 0);
  const auto result = run();
  ASSERT_TRUE(result) << result.error().message;
  // Two workers of 3 GB/s each.
  expect_near(result->profile.devices[0].read_bytes_per_second, 6e9);
  expect_near(result->profile.devices[0].write_bytes_per_second, 6e9);
  expect_near(result->profile.devices[1].read_bytes_per_second, 2e9);
  EXPECT_FALSE(result->profile.devices[0].storage);
  // Together the workers are shared.
  const double together = result->profile.devices[0].together_bytes_per_second +
                          result->profile.devices[1].together_bytes_per_second;
  expect_near(together, 6e9);
}

TEST_F(Probe, InPlaceDeviceIsItsOwnOtherSideWithoutBuffers) {
  auto options = sim("memory", 100e9, 100e9);
  options.in_place = true;
  add(std::make_unique<SimDevice>(clock_, options), 0);
  buffers_ = {};
  const auto result = run();
  ASSERT_TRUE(result) << result.error().message;
  expect_near(result->profile.devices[0].read_bytes_per_second, 6e9);
}

TEST_F(Probe, SmallMemoryLowersTheDepth) {
  buffers_ = {};
  add(std::make_unique<SimDevice>(clock_, sim("ssd", 1e9, 1e9)), 2 * mib);
  const auto result = run();
  ASSERT_TRUE(result) << result.error().message;
  expect_near(result->profile.devices[0].read_bytes_per_second, 1e9);
}

TEST_F(Probe, WithoutMemoryThereIsAnError) {
  buffers_ = {};
  add(std::make_unique<SimDevice>(clock_, sim("ssd", 1e9, 1e9)), 0);
  const auto result = run();
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, Errc::too_large);
  EXPECT_NE(result.error().message.find("'ssd'"), std::string::npos);
}

TEST_F(Probe, FailedRequestIsAnErrorThatNamesTheDevice) {
  add_sim("good", 1e9, 1e9);
  auto broken = faulty("broken", {});
  broken->script(IoKind::read, 40, Fault::fail);
  WatchedDevice& device = add(std::move(broken));
  const auto result = run();
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, Errc::io_error);
  EXPECT_NE(result.error().message.find("'broken': a read of 1 MiB failed"), std::string::npos)
      << result.error().message;
  EXPECT_EQ(device.in_flight(), 0U);
}

TEST_F(Probe, ShortRequestIsAnError) {
  add(faulty("short", {.short_io = 1}));
  const auto result = run();
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, Errc::short_io);
}

TEST_F(Probe, StuckDeviceIsAnErrorAfterABoundedTime) {
  WatchedDevice& good = add_sim("good", 1e9, 1e9);
  auto stuck = faulty("stuck", {});
  FaultDevice* const fault = stuck.get();
  stuck->script(IoKind::write, 3, Fault::stuck);
  WatchedDevice& device = add(std::move(stuck));
  const auto result = run();
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, Errc::timed_out);
  EXPECT_NE(result.error().message.find("'stuck' has not completed a write"), std::string::npos)
      << result.error().message;
  EXPECT_LE(took_, stall_limit + seconds(3));
  EXPECT_EQ(fault->stuck(), 1U);
  EXPECT_EQ(device.in_flight(), 1U);
  EXPECT_EQ(good.in_flight(), 0U);
}

TEST_F(Probe, DeviceThatIsStuckWhileAllReadLeavesTheOthersDrained) {
  WatchedDevice& good = add_sim("good", 1e9, 1e9);
  auto options = sim("stuck", 1e9, 1e9);
  auto fault =
      std::make_unique<FaultDevice>(std::make_unique<SimDevice>(clock_, options), FaultOptions{}, clock_);
  // Alone it reads some 280 + 34 times; the script strikes later.
  fault->script(IoKind::read, 400, Fault::stuck);
  add(std::move(fault));
  const auto result = run();
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, Errc::timed_out);
  EXPECT_NE(result.error().message.find("'stuck'"), std::string::npos);
  EXPECT_EQ(good.in_flight(), 0U);
}

TEST(ProbeReal, MemoryAndNullInRealTime) {
  SteadyClock clock;
  PollWaiter waiter(clock);
  HostTransfer transfer(1);
  void* const memory = std::aligned_alloc(4096, 16 * mib);
  ASSERT_NE(memory, nullptr);
  MemoryDevice device("memory", {static_cast<std::byte*>(memory), 8 * mib});
  NullDevice null("null", 64 * mib);
  const std::span<std::byte> buffers(static_cast<std::byte*>(memory) + 8 * mib, 8 * mib);
  const auto result = probe(clock, waiter, {&device, &null}, {{}, {}}, buffers, {}, transfer,
                            {.per_device = milliseconds(40), .together = milliseconds(20), .sweep = true});
  ASSERT_TRUE(result) << result.error().message;
  for (const DeviceProfile& profile : result->profile.devices) {
    EXPECT_GT(profile.read_bytes_per_second, 1e6);
    EXPECT_LE(profile.read_bytes_per_second, 1e12);
    EXPECT_GT(profile.together_bytes_per_second, 1e6);
  }
  std::free(memory);
}

}  // namespace
}  // namespace kvpool
