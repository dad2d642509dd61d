// What every device must do (io/device.h), asked of each kind alike, and of those that stack on another.

#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <ostream>

#include "base/prng.h"
#include "base/units.h"
#include "io/cap_device.h"
#include "io/fault_device.h"
#include "io/file/file_device.h"
#include "io/memory/memory_device.h"
#include "io/null/null_device.h"
#include "io/nvme/nvme_device.h"
#include "io/sim/sim_device.h"
#include "io/spdk/double/spdk_double.h"
#include "io/spdk/plugin/spdk_device.h"
#include "io/spdk/plugin/spdk_env.h"
#include "io/spdk/spdk_plugin.h"

namespace kvpool {
namespace {

constexpr uint64_t huge_page_bytes = 2 * mib;
constexpr uint64_t size_bytes = 8 * mib;
constexpr uint32_t queue_depth = 8;
constexpr uint32_t part_bytes = 16384;

struct FreeMemory {
  void operator()(std::byte* memory) const { std::free(memory); }
};
using Memory = std::unique_ptr<std::byte, FreeMemory>;

Memory take_memory(size_t bytes) {
  Memory memory(static_cast<std::byte*>(std::aligned_alloc(huge_page_bytes, bytes)));
  std::fill_n(memory.get(), bytes, std::byte{0});
  return memory;
}

// What a device under test needs around it.
struct Surroundings {
  std::string folder;
  SteadyClock clock;
  Memory memory = take_memory(size_bytes);  // of a memory device
};

struct DeviceKind {
  std::string name;
  std::function<Result<std::unique_ptr<Device>>(Surroundings&)> make;
};
std::ostream& operator<<(std::ostream& out, const DeviceKind& kind) { return out << kind.name; }

// The test before may have gone with requests under way: the kernel keeps their lock until they are done.
template <class D, class Options>
Result<std::unique_ptr<Device>> open_patiently(const Options& options) {
  auto device = D::open(options);
  for (int tries = 0; !device && device.error().code == Errc::in_use && tries < 100; ++tries) {
    usleep(50'000);
    device = D::open(options);
  }
  if (!device) return tl::unexpected(device.error());
  return std::unique_ptr<Device>(std::move(*device));
}

Result<std::unique_ptr<Device>> make_file(const std::string& path) {
  return open_patiently<FileDevice>(
      FileDeviceOptions{.name = "file0", .path = path, .size_bytes = size_bytes, .queue_depth = queue_depth});
}
Result<std::unique_ptr<Device>> make_file(Surroundings& around) { return make_file(around.folder + "/pool"); }

Result<std::unique_ptr<Device>> make_memory(Surroundings& around) {
  return std::make_unique<MemoryDevice>("memory0", std::span(around.memory.get(), size_bytes), queue_depth);
}

Result<std::unique_ptr<Device>> make_null(Surroundings& /*around*/) {
  return std::make_unique<NullDevice>("null0", size_bytes, queue_depth);
}

Result<std::unique_ptr<Device>> make_sim(Surroundings& around, bool in_place, bool discards = false) {
  return std::make_unique<SimDevice>(around.clock, SimDeviceOptions{.name = "sim0",
                                                                    .size_bytes = size_bytes,
                                                                    .jitter = 0.5,
                                                                    .queue_depth_max = queue_depth,
                                                                    .in_place = in_place,
                                                                    .storage = !in_place,
                                                                    .discards = discards});
}

Result<std::unique_ptr<Device>> with_cap(Result<std::unique_ptr<Device>> lower, Surroundings& around) {
  if (!lower) return lower;
  const CapOptions caps{.read_bytes_per_second = 500'000'000, .write_bytes_per_second = 500'000'000};
  return std::make_unique<CapDevice>(std::move(*lower), caps, around.clock);
}

Result<std::unique_ptr<Device>> with_lateness(Result<std::unique_ptr<Device>> lower, Surroundings& around) {
  if (!lower) return lower;
  const FaultOptions faults{.late = 0.5, .late_by = std::chrono::milliseconds(1)};
  return std::make_unique<FaultDevice>(std::move(*lower), faults, around.clock);
}

// The namespace of the drive with that serial number, or empty.
std::string namespace_of(const std::string& serial) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/sys/class/nvme-generic", error)) {
    std::ifstream file(entry.path() / "device/serial");
    std::string line;
    std::getline(file, line);
    if (line.substr(0, line.find(' ')) == serial) return "/dev/" + entry.path().filename().string();
  }
  return {};
}

Result<std::unique_ptr<Device>> make_nvme(const std::string& path, bool discard = false,
                                          bool polled = false) {
  return open_patiently<NvmeDevice>(NvmeDeviceOptions{.name = "nvme0",
                                                      .path = path,
                                                      .size_bytes = size_bytes,
                                                      .queue_depth = queue_depth,
                                                      .discard = discard,
                                                      .polled = polled});
}

// Where there is a drive to be overwritten: in the virtual machine of tests/vm.
void add_nvme_kinds(std::vector<DeviceKind>& kinds) {
  const char* serial = std::getenv("KVPOOL_TEST_NVME_SERIAL");
  if (serial == nullptr) return;
  const std::string path = namespace_of(serial);
  kinds.push_back({"nvme", [path](Surroundings& /*around*/) { return make_nvme(path); }});
  // By interrupts too, where the kernel's poll queues are not to be trusted.
  kinds.push_back({"polled_nvme", [path](Surroundings& /*around*/) { return make_nvme(path, true, true); }});
  kinds.push_back({"discarding_nvme", [path](Surroundings& /*around*/) { return make_nvme(path, true); }});
  kinds.push_back(
      {"capped_nvme", [path](Surroundings& around) { return with_cap(make_nvme(path, true), around); }});
  kinds.push_back(
      {"late_nvme", [path](Surroundings& around) { return with_lateness(make_nvme(path), around); }});
}

// A block device that may be overwritten. In the virtual machine: a drive's, and a partition.
void add_block_kinds(std::vector<DeviceKind>& kinds) {
  for (const char* which : {"disk", "partition"}) {
    const char* path =
        std::getenv(std::string(which) == "disk" ? "KVPOOL_TEST_DISK" : "KVPOOL_TEST_PARTITION");
    if (path == nullptr) continue;
    kinds.push_back(
        {which, [path = std::string(path)](Surroundings& /*around*/) { return make_file(path); }});
  }
}

SpdkDeviceOptions spdk_options(const std::string& address) {
  return {.name = "spdk0", .address = address, .size_bytes = size_bytes, .queue_depth = queue_depth};
}

// The plug-in's code over a double of SPDK.
Result<std::unique_ptr<Device>> make_spdk_double() {
  if (Status started = SpdkEnv::instance().start({}); !started) return tl::unexpected(started.error());
  spdk_double::add_drive("suite", {});
  auto device = std::make_unique<SpdkDevice>(spdk_options("trtype:PCIe traddr:suite"));
  if (Status attached = device->attached(); !attached) return tl::unexpected(attached.error());
  return device;
}

// The plug-in itself over SPDK, where there is a target to be overwritten: KVPOOL_TEST_SPDK is its address.
Result<std::unique_ptr<Device>> make_spdk(const std::string& address) {
  auto plugin = load_spdk();
  if (!plugin) return tl::unexpected(plugin.error());
  if (Status started = (*plugin)->start({.pci = address.find("trtype:PCIe") != std::string::npos}); !started)
    return tl::unexpected(started.error());
  const SpdkDeviceOptions options = spdk_options(address);
  auto opened = (*plugin)->open(std::span(&options, 1));
  if (!opened) return tl::unexpected(opened.error());
  return std::move(opened->front());
}

void add_spdk_kinds(std::vector<DeviceKind>& kinds) {
  kinds.push_back({"spdk_double", [](Surroundings& /*around*/) { return make_spdk_double(); }});
  kinds.push_back(
      {"capped_spdk_double", [](Surroundings& around) { return with_cap(make_spdk_double(), around); }});
  const char* address = std::getenv("KVPOOL_TEST_SPDK");
  if (address == nullptr) return;
  kinds.push_back({"spdk", [address](Surroundings& /*around*/) { return make_spdk(address); }});
}

std::vector<DeviceKind> all_kinds() {
  std::vector<DeviceKind> kinds = {
      {"memory", make_memory},
      {"file", [](Surroundings& around) { return make_file(around); }},
      {"null", make_null},
      {"sim", [](Surroundings& around) { return make_sim(around, false); }},
      {"discarding_sim", [](Surroundings& around) { return make_sim(around, false, true); }},
      {"sim_in_place", [](Surroundings& around) { return make_sim(around, true); }},
      {"capped_file", [](Surroundings& around) { return with_cap(make_file(around), around); }},
      {"capped_memory", [](Surroundings& around) { return with_cap(make_memory(around), around); }},
      {"late_file", [](Surroundings& around) { return with_lateness(make_file(around), around); }},
      {"late_memory", [](Surroundings& around) { return with_lateness(make_memory(around), around); }},
  };
  add_nvme_kinds(kinds);
  add_spdk_kinds(kinds);
  add_block_kinds(kinds);
  return kinds;
}

class DeviceSuite : public testing::TestWithParam<DeviceKind> {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "kvpool_devices_XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    around_.folder = pattern;
    auto made = GetParam().make(around_);
    if (!made && made.error().code == Errc::unsupported) GTEST_SKIP() << made.error().message;
    ASSERT_TRUE(made) << made.error().message;
    device_ = std::move(*made);
    limits_ = device_->limits();
    const std::array<std::span<std::byte>, 1> regions = {std::span(buffers_.get(), registered_bytes)};
    ASSERT_TRUE(device_->start(regions));
  }
  void TearDown() override {
    device_.reset();
    std::filesystem::remove_all(around_.folder);
  }

  // Sleeps until the device says that there may be something.
  void sleep_until_event() {
    const Nanos now = around_.clock.now();
    const Nanos next = device_->next_event_time();
    if (next <= now) return;
    if (next == never && device_->wait_fd() < 0) {
      ADD_FAILURE() << "it has something under way, and neither a time nor a descriptor says when";
      return;
    }
    const Nanos most = std::chrono::milliseconds(999);
    const Nanos wait = next == never ? most : std::min(most, next - now);
    const timespec timeout{.tv_sec = 0, .tv_nsec = wait.count()};
    pollfd readable{device_->wait_fd(), POLLIN, 0};
    ppoll(&readable, device_->wait_fd() < 0 ? 0 : 1, &timeout, nullptr);
  }

  // Sleeps as the engine does; fails the test where a device would let it sleep for ever.
  IoCompletion wait_for_one() {
    std::array<IoCompletion, 1> out;
    const Nanos begin = around_.clock.now();
    while (device_->poll(out) == 0) {
      if (around_.clock.now() - begin > std::chrono::seconds(30)) {
        ADD_FAILURE() << "nothing came for 30 s";
        return {.code = Errc::timed_out};
      }
      sleep_until_event();
      if (HasFailure()) return {.code = Errc::timed_out};
    }
    return out[0];
  }

  [[nodiscard]] bool submit(IoKind kind, uint64_t offset, uint32_t length, std::byte* buffer, uint64_t tag) {
    IoRequest request;
    request.kind = kind;
    request.offset = ByteOffset(offset);
    request.length_bytes = length;
    request.buffer = limits_.in_place ? nullptr : buffer;
    request.tag = tag;
    return device_->submit(request);
  }
  // One request to its end; in place the copy is ours.
  void move(IoKind kind, uint64_t offset, std::span<std::byte> bytes) {
    ASSERT_TRUE(submit(kind, offset, static_cast<uint32_t>(bytes.size()), bytes.data(), 77));
    const IoCompletion done = wait_for_one();
    ASSERT_EQ(done.code, Errc::ok);
    ASSERT_EQ(done.tag, 77U);
    ASSERT_EQ(done.bytes, bytes.size());
    if (!limits_.in_place) return;
    ASSERT_NE(done.in_place, nullptr);
    if (kind == IoKind::read) {
      std::memcpy(bytes.data(), done.in_place, bytes.size());
    } else {
      std::memcpy(done.in_place, bytes.data(), bytes.size());
    }
  }
  static void fill(std::span<std::byte> bytes, uint64_t seed) {
    Prng prng(seed);
    for (std::byte& b : bytes) b = static_cast<std::byte>(prng.next());
  }

  static constexpr size_t registered_bytes = 4 * mib;
  Surroundings around_;
  Memory buffers_ = take_memory(2 * registered_bytes);  // the second half is not registered
  DeviceLimits limits_;
  std::unique_ptr<Device> device_;  // before the memory that it holds
};

INSTANTIATE_TEST_SUITE_P(All, DeviceSuite, testing::ValuesIn(all_kinds()),
                         [](const auto& kind) { return kind.param.name; });

TEST_P(DeviceSuite, HasLimitsThatFitTogether) {
  EXPECT_EQ(limits_.size_bytes, size_bytes);
  ASSERT_GT(limits_.alignment_bytes, 0U);
  EXPECT_EQ(limits_.alignment_bytes & (limits_.alignment_bytes - 1), 0U);
  EXPECT_GE(limits_.transfer_bytes_max, 65536U);
  EXPECT_EQ(limits_.transfer_bytes_max % limits_.alignment_bytes, 0U);
  EXPECT_GE(limits_.queue_depth_max, 1U);
  EXPECT_FALSE(device_->name().empty());
  EXPECT_FALSE(limits_.in_place && limits_.storage) << "storage is not addressed in place";
}

TEST_P(DeviceSuite, WaitsForNothingWhenIdle) {
  std::array<IoCompletion, 4> out;
  EXPECT_EQ(device_->poll(out), 0U);
  EXPECT_EQ(device_->next_event_time(), never);
}

// What submit() has gathered is sent by poll(): nobody else would call it.
TEST_P(DeviceSuite, AsksToBePolledForWhatItWasGiven) {
  ASSERT_TRUE(submit(IoKind::read, 0, part_bytes, buffers_.get(), 1));
  EXPECT_NE(device_->next_event_time(), never);
  EXPECT_EQ(wait_for_one().code, Errc::ok);
}

TEST_P(DeviceSuite, ReadsBackWhatWasWrittenFromItsFirstByteToItsLast) {
  if (!limits_.keeps_bytes) GTEST_SKIP() << "it keeps nothing";
  const uint32_t step = limits_.alignment_bytes;
  const uint32_t most = std::min<uint32_t>(limits_.transfer_bytes_max, mib);
  struct Range {
    uint64_t offset;
    uint32_t length;
  };
  const std::vector<Range> ranges = {{0, std::max(step, 4096U)},
                                     {mib, most},
                                     {5 * mib + step, std::max(step, 12288U)},
                                     {size_bytes - most, most}};
  uint64_t seed = 1;
  for (const Range& range : ranges) {
    const std::span bytes(buffers_.get(), range.length);
    fill(bytes, seed++);
    ASSERT_NO_FATAL_FAILURE(move(IoKind::write, range.offset, bytes));
  }
  seed = 1;
  // Into registered memory, and into memory that no start() has heard of.
  for (const Range& range : ranges) {
    std::vector<std::byte> expected(range.length);
    fill(expected, seed++);
    for (const size_t at : {size_t{0}, registered_bytes}) {
      if (!device_->reaches(buffers_.get() + at, range.length)) continue;
      const std::span bytes(buffers_.get() + at, range.length);
      std::ranges::fill(bytes, std::byte{0});
      ASSERT_NO_FATAL_FAILURE(move(IoKind::read, range.offset, bytes));
      EXPECT_TRUE(std::ranges::equal(bytes, expected)) << "at " << range.offset;
    }
  }
}

TEST_P(DeviceSuite, TouchesNothingBesideWhatWasAskedFor) {
  if (!limits_.keeps_bytes) GTEST_SKIP() << "it keeps nothing";
  const uint32_t step = std::max(limits_.alignment_bytes, 4096U);
  const std::span all(buffers_.get(), size_t{3} * step);
  std::ranges::fill(all, std::byte{0xaa});
  ASSERT_NO_FATAL_FAILURE(move(IoKind::write, mib, all));
  const std::span one(buffers_.get(), step);
  std::ranges::fill(one, std::byte{0x55});
  ASSERT_NO_FATAL_FAILURE(move(IoKind::write, mib + step, one));
  std::ranges::fill(all, std::byte{0});
  ASSERT_NO_FATAL_FAILURE(move(IoKind::read, mib, all));
  for (size_t i = 0; i < all.size(); ++i) {
    ASSERT_EQ(all[i], i / step == 1 ? std::byte{0x55} : std::byte{0xaa}) << i;
  }
  // And a read leaves the memory around its buffer alone.
  const std::span middle = all.subspan(step, step);
  std::ranges::fill(all, std::byte{0x11});
  ASSERT_NO_FATAL_FAILURE(move(IoKind::read, mib + step, middle));
  for (size_t i = 0; i < all.size(); ++i) {
    ASSERT_EQ(all[i], i / step == 1 ? std::byte{0x55} : std::byte{0x11}) << i;
  }
}

// Whatever was advised before: what is written afterwards is there, and what is beside it.
TEST_P(DeviceSuite, KeepsWhatIsWrittenOverADiscard) {
  if (!limits_.discards) GTEST_SKIP() << "it takes no discards";
  const std::span bytes(buffers_.get(), mib);
  std::vector<std::byte> expected(bytes.size());
  fill(expected, 1);
  Prng prng(7);
  for (int round = 0; round < 40; ++round) {
    std::ranges::copy(expected, bytes.begin());
    const uint32_t parts = mib / part_bytes;
    for (uint32_t part = 0; part < parts; ++part) {
      if (round > 0 && !prng.chance(0.5)) continue;
      const uint64_t offset = uint64_t{part} * part_bytes;
      std::array<IoCompletion, 1> none;
      if (round > 0) {
        (void)device_->discard(ByteOffset(offset), part_bytes);
        if (prng.chance(0.5)) {
          EXPECT_EQ(device_->poll(none), 0U);
        }
      }
      // Refused while a discard is under way there, which a look may have ended.
      while (!submit(IoKind::write, offset, part_bytes, bytes.data() + offset, part)) {
        EXPECT_EQ(device_->poll(none), 0U);
        if (submit(IoKind::write, offset, part_bytes, bytes.data() + offset, part)) break;
        sleep_until_event();
      }
      const IoCompletion done = wait_for_one();
      ASSERT_EQ(done.code, Errc::ok) << "round " << round << ", part " << part;
      ASSERT_EQ(done.tag, part) << "round " << round;
    }
    std::ranges::fill(bytes, std::byte{0});
    for (uint32_t part = 0; part < parts; ++part) {
      const uint64_t offset = uint64_t{part} * part_bytes;
      ASSERT_NO_FATAL_FAILURE(move(IoKind::read, offset, bytes.subspan(offset, part_bytes)));
    }
    ASSERT_TRUE(std::ranges::equal(bytes, expected)) << "round " << round;
  }
}

TEST_P(DeviceSuite, CompletesEachRequestOnceAndRefusesOnlyWhenFull) {
  constexpr uint32_t requests = 300;
  std::vector<int> seen(requests, 0);
  uint32_t sent = 0;
  for (uint32_t received = 0; received < requests; ++received) {
    while (sent < requests) {
      const IoKind kind = sent % 3 == 0 ? IoKind::write : IoKind::read;
      const uint64_t offset = uint64_t{sent % 100} * part_bytes;
      std::byte* const buffer = buffers_.get() + size_t{sent % 256} * part_bytes;
      if (!submit(kind, offset, part_bytes, buffer, 1000 + sent)) break;
      ++sent;
    }
    ASSERT_LE(sent - received, limits_.queue_depth_max);
    ASSERT_TRUE(sent == requests || sent > received) << "refused with nothing under way";
    const IoCompletion done = wait_for_one();
    ASSERT_EQ(done.code, Errc::ok);
    ASSERT_EQ(done.bytes, part_bytes);
    ASSERT_TRUE(done.tag >= 1000 && done.tag < 1000 + requests);
    ASSERT_EQ(seen[done.tag - 1000]++, 0) << "completed twice";
  }
  std::array<IoCompletion, 4> out;
  EXPECT_EQ(device_->poll(out), 0U);
}

TEST_P(DeviceSuite, MayGoWithRequestsUnderWay) {
  for (uint32_t i = 0; i < limits_.queue_depth_max; ++i) {
    if (!submit(IoKind::read, uint64_t{i} * part_bytes, part_bytes, buffers_.get() + size_t{i} * part_bytes,
                i))
      break;
  }
  std::array<IoCompletion, 1> out;
  (void)device_->poll(out);
  device_.reset();  // what comes late finds its buffers still there: they are freed after it
}

}  // namespace
}  // namespace kvpool
