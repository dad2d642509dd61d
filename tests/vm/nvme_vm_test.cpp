// NVMe drives as they are met in the field, in the virtual machine of vm_test.py, which says what each drive
// is.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "drives.h"
#include "io/nvme/nvme_device.h"

namespace kvpool {
namespace {

using nlohmann::json;

class NvmeDrives : public VirtualMachine {
 protected:
  static Result<std::unique_ptr<NvmeDevice>> open(const std::string& serial, uint64_t size_bytes = 8 * mib) {
    return NvmeDevice::open(
        {.name = serial, .path = path_of(serial), .size_bytes = size_bytes, .queue_depth = 8});
  }
  // Waits for the lock that an ended process leaves to its last command.
  static Result<std::unique_ptr<NvmeDevice>> open_patiently(const std::string& serial) {
    auto device = open(serial);
    for (int tries = 0; tries < 100 && !device && device.error().code == Errc::in_use; ++tries) {
      usleep(100'000);
      device = open(serial);
    }
    return device;
  }
  // The message of a refusal that left the drive as it was.
  static std::string refusal(const std::string& serial, uint64_t size_bytes = 8 * mib) {
    const std::string before = edges_of(serial);
    const auto device = open(serial, size_bytes);
    EXPECT_TRUE(before == edges_of(serial)) << serial << " was written to";
    return device ? "none" : device.error().message;
  }
};

TEST_F(NvmeDrives, SayWhatTheyAre) {
  const auto device = open("suite");
  ASSERT_TRUE(device) << device.error().message;
  const NvmeIdentity& identity = (*device)->drive().identity();
  EXPECT_EQ(identity.serial, "suite");
  EXPECT_EQ(identity.model, "QEMU NVMe Ctrl");
  EXPECT_EQ(identity.size_bytes, 48 * mib);
  EXPECT_EQ(identity.block_bytes, 512U);
  const DeviceLimits limits = (*device)->limits();
  EXPECT_EQ(limits.size_bytes, 8 * mib);
  EXPECT_EQ(limits.alignment_bytes, 4096U);
  EXPECT_GE(limits.transfer_bytes_max, 64U << 10);
  EXPECT_LE(limits.transfer_bytes_max, 512U << 10);  // what this controller takes (MDTS 7)
  EXPECT_TRUE(limits.storage);
  const auto large_blocks = open("middle");
  ASSERT_TRUE(large_blocks) << large_blocks.error().message;
  EXPECT_EQ((*large_blocks)->drive().identity().block_bytes, 4096U);
}

TEST_F(NvmeDrives, ThatHoldSomethingAreRefusedAndLeftAlone) {
  EXPECT_HAS(refusal("metadata"), "its blocks carry 8 bytes of metadata each");
  EXPECT_HAS(refusal("ext4"), "holds data that kvpool did not write (ext4); it was left alone");
  EXPECT_HAS(refusal("lvm"), "holds data that kvpool did not write (LVM2_member)");
  EXPECT_HAS(refusal("raid"), "holds data that kvpool did not write (linux_raid_member)");
  EXPECT_HAS(refusal("partitions"), "has partitions; it was left alone");
  EXPECT_HAS(refusal("middling"), "holds data that kvpool did not write");
  EXPECT_HAS(refusal("suite", 47 * mib), "has room for 46 MiB");
}

TEST_F(NvmeDrives, ThatTheKernelUsesAreRefused) {
  fs::create_directories("/tmp/mounted");
  ASSERT_EQ(mount(block_path_of("ext4").c_str(), "/tmp/mounted", "ext4", 0, nullptr), 0);
  EXPECT_HAS(refusal("ext4"), "is mounted; it was left alone");
  ASSERT_EQ(unmount("/tmp/mounted"), 0);
  // Blank, and yet somebody's: whoever holds the block device for himself.
  const int held = ::open(block_path_of("suite").c_str(), O_RDWR | O_EXCL | O_CLOEXEC);
  ASSERT_GE(held, 0);
  EXPECT_HAS(refusal("suite"), "is in use by the kernel or another process");
  close(held);
  ASSERT_EQ(std::system(("mkswap " + block_path_of("swap") + " >/dev/null").c_str()), 0);
  ASSERT_EQ(swapon(block_path_of("swap").c_str(), 0), 0);
  EXPECT_HAS(refusal("swap"), "is swap space; it was left alone");
  ASSERT_EQ(swapoff(block_path_of("swap").c_str()), 0);
  EXPECT_HAS(refusal("swap"), "holds data that kvpool did not write");
}

TEST_F(NvmeDrives, BelongToOnePoolAtATimeAndAreUsedAgain) {
  auto first = open("suite");
  ASSERT_TRUE(first) << first.error().message;
  EXPECT_HAS(refusal("suite"), "in use by another process; close that pool first");
  // Nobody can mount it meanwhile.
  EXPECT_LT(::open(block_path_of("suite").c_str(), O_RDWR | O_EXCL | O_CLOEXEC), 0);
  const auto uuid = (*first)->drive().header().uuid;
  first->reset();
  const auto second = open("suite", 16 * mib);
  ASSERT_TRUE(second) << second.error().message;
  EXPECT_NE((*second)->drive().header().uuid, uuid);
  EXPECT_EQ((*second)->limits().size_bytes, 16 * mib);
}

// A RAID's superblock lies at 4096 and spares what was there before, our header among it.
TEST_F(NvmeDrives, ThatSomebodyTookAfterAPoolAreRefused) {
  open("suite").value().reset();
  const auto write_at = [](uint64_t offset, char byte) {
    std::fstream file(block_path_of("suite"), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(offset));
    file.put(byte);
    file.close();
  };
  for (const uint64_t offset : {uint64_t{4096}, 48 * mib - 100}) {
    write_at(offset, 'x');
    EXPECT_HAS(refusal("suite"), "holds data that kvpool did not write");
    write_at(offset, '\0');
    const auto again = open("suite");
    ASSERT_TRUE(again) << again.error().message;
  }
}

TEST_F(NvmeDrives, AreNamedRightly) {
  const auto refused = [](const std::string& path) {
    const auto device = NvmeDevice::open({.name = "n", .path = path, .size_bytes = mib});
    return device ? "none" : device.error().message;
  };
  EXPECT_HAS(refused(block_path_of("suite")), "is a block device; an `nvme` device wants");
  const std::string name = name_of("suite");
  EXPECT_HAS(refused("/dev/nvme" + name.substr(2, name.find('n', 2) - 2)), "is another character device");
}

TEST_F(NvmeDrives, AreListedWithWhatIsOnThem) {
  const auto pool = open("suite");
  ASSERT_TRUE(pool) << pool.error().message;
  const Outcome listed = kvpool("device list --json");
  ASSERT_EQ(listed.status, 0) << listed.errors;
  std::map<std::string, json> drives;
  const json list = json::parse(listed.output);
  for (const json& drive : list["drives"]) {
    ASSERT_EQ(drive["namespaces"].size(), 1U);
    drives[drive["serial"]] = drive;
  }
  EXPECT_EQ(drives.size(), 12U);
  const json& suite = drives["suite"];
  EXPECT_EQ(suite["model"], "QEMU NVMe Ctrl");
  EXPECT_EQ(suite["transport"], "pcie");
  EXPECT_EQ(suite["driver"], "nvme");
  EXPECT_EQ(suite["health"]["temperature_celsius"], 50);  // as QEMU has it
  EXPECT_EQ(suite["health"]["media_errors"], 0);
  EXPECT_EQ(suite["namespaces"][0]["path"], path_of("suite"));
  EXPECT_EQ(suite["namespaces"][0]["size_bytes"], 48 * mib);
  EXPECT_EQ(suite["namespaces"][0]["holds"], "a pool");
  EXPECT_HAS(suite["namespaces"][0]["use"].get<std::string>(), "is open in process ");
  EXPECT_EQ(drives["ext4"]["namespaces"][0]["holds"], "ext4");
  EXPECT_EQ(drives["ext4"]["namespaces"][0]["use"], nullptr);
  EXPECT_EQ(drives["partitions"]["namespaces"][0]["holds"], "gpt");
  EXPECT_EQ(drives["partitions"]["namespaces"][0]["use"], "has partitions");
  EXPECT_EQ(drives["middle"]["namespaces"][0]["block_bytes"], 4096);
}

// By poll queues where the kernel may be trusted with them; in both cases a process may end at any time.
TEST_F(NvmeDrives, OutliveAProcessThatEndsWithCommandsUnderWay) {
  utsname about{};
  ASSERT_EQ(uname(&about), 0);
  unsigned major = 0;
  unsigned minor = 0;
  ASSERT_EQ(sscanf(about.release, "%u.%u", &major, &minor), 2);
  const bool trusted = major > 6 || (major == 6 && minor >= 12);
  for (int round = 0; round < 4; ++round) {
    const pid_t child = fork();
    if (child == 0) {
      const auto device = open_patiently("slow");
      if (!device || (*device)->polled() != trusted || !(*device)->start({})) _exit(1);
      const std::unique_ptr<std::byte, decltype(&std::free)> memory(
          static_cast<std::byte*>(std::aligned_alloc(4096, mib)), std::free);
      for (uint64_t at = 0; at < 8 * 65536; at += 65536) {
        if (!(*device)->submit(
                {.offset = ByteOffset(at), .length_bytes = 65536, .buffer = memory.get() + at})) {
          _exit(2);
        }
      }
      std::array<IoCompletion, 8> out;
      (void)(*device)->poll(out);
      _exit(0);
    }
    int status = -1;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
  }
  const auto device = open_patiently("slow");
  EXPECT_TRUE(device) << device.error().message;
}

// What was freed reads as zeros and takes no room on the host any more; what is beside it stays.
TEST_F(NvmeDrives, DropWhatIsDiscarded) {
  auto opened = NvmeDevice::open(
      {.name = "suite", .path = path_of("suite"), .size_bytes = 8 * mib, .queue_depth = 8, .discard = true});
  ASSERT_TRUE(opened) << opened.error().message;
  NvmeDevice& device = **opened;
  EXPECT_TRUE(device.limits().discards);
  ASSERT_TRUE(device.start({}));
  const std::unique_ptr<std::byte, decltype(&std::free)> memory(
      static_cast<std::byte*>(std::aligned_alloc(4096, 65536)), std::free);
  const auto move = [&](IoKind kind, uint64_t offset) {
    const IoRequest request{
        .kind = kind, .offset = ByteOffset(offset), .length_bytes = 65536, .buffer = memory.get()};
    std::array<IoCompletion, 1> out;
    while (!device.submit(request)) EXPECT_EQ(device.poll(out), 0U);
    while (device.poll(out) == 0) usleep(1000);
    EXPECT_EQ(out[0].code, Errc::ok);
  };
  const auto all_are = [&](int value) {
    return std::all_of(memory.get(), memory.get() + 65536,
                       [&](std::byte b) { return b == std::byte(value); });
  };
  std::memset(memory.get(), 0xa5, 65536);
  for (uint64_t at = 0; at < 4 * mib; at += 65536) move(IoKind::write, at);
  for (uint64_t at = 65536; at < 4 * mib; at += 131072) EXPECT_TRUE(device.discard(ByteOffset(at), 65536));
  // One of them is written again before the drive is told.
  std::memset(memory.get(), 0x5a, 65536);
  move(IoKind::write, 3 * mib + 65536);
  const auto expected_at = [](uint64_t at) {
    if (at == 3 * mib + 65536) return 0x5a;
    return at % 131072 != 0 ? 0 : 0xa5;
  };
  const auto first_wrong = [&] {
    uint64_t at = 0;
    for (; at < 4 * mib; at += 65536) {
      move(IoKind::read, at);
      if (!all_are(expected_at(at))) break;
    }
    return at;
  };
  for (int tries = 0; tries < 300 && first_wrong() != 4 * mib; ++tries) usleep(100'000);
  EXPECT_EQ(first_wrong(), 4 * mib);
  std::array<IoCompletion, 1> none;
  EXPECT_EQ(device.poll(none), 0U) << "a discard is no completion";
}

TEST_F(NvmeDrives, SayWhichCommandFailed) {
  auto opened =
      NvmeDevice::open({.name = "bad", .path = path_of("bad"), .size_bytes = 90 * mib, .discard = true});
  ASSERT_TRUE(opened) << opened.error().message;
  NvmeDevice& device = **opened;
  const std::unique_ptr<std::byte, decltype(&std::free)> memory(
      static_cast<std::byte*>(std::aligned_alloc(4096, mib)), std::free);
  const std::array<std::span<std::byte>, 1> regions = {std::span(memory.get(), mib)};
  ASSERT_TRUE(device.start(regions));
  const auto read = [&](uint64_t offset) {
    IoRequest request{
        .kind = IoKind::read, .offset = ByteOffset(offset), .length_bytes = 4096, .buffer = memory.get()};
    EXPECT_TRUE(device.submit(request));
    std::array<IoCompletion, 1> out;
    while (device.poll(out) == 0) {
      pollfd readable{device.wait_fd(), POLLIN, 0};
      ::poll(&readable, 1, 100);
    }
    return out[0];
  };
  EXPECT_EQ(read(0).code, Errc::ok);
  testing::internal::CaptureStderr();
  EXPECT_EQ(read(79 * mib + 65536).code, Errc::io_error);
  EXPECT_HAS(testing::internal::GetCapturedStderr(), "NVMe status 0x281 (media: unrecovered read error)");
  EXPECT_EQ(read(80 * mib).code, Errc::ok);
  // A discard that is refused is the last one.
  EXPECT_TRUE(device.discard(ByteOffset(0), mib));
  EXPECT_EQ(device.next_event_time(), Nanos{0});
  testing::internal::CaptureStderr();
  // It says true until the drive's refusal has been seen.
  for (uint64_t at = 2 * mib; at < 78 * mib && device.discard(ByteOffset(at), 4096); at += 2 * mib) {
    std::array<IoCompletion, 1> none;
    EXPECT_EQ(device.poll(none), 0U);
    usleep(400'000);
  }
  EXPECT_HAS(testing::internal::GetCapturedStderr(), "bad: a discard failed: NVMe status ");
  EXPECT_FALSE(device.discard(ByteOffset(0), mib));
  EXPECT_EQ(device.next_event_time(), never);
  EXPECT_EQ(read(80 * mib).code, Errc::ok);
}

// Three drives of unequal speed and memory, as a user would have them.
TEST_F(NvmeDrives, MakeAPoolWithSharesByTheirSpeed) {
  std::ofstream config("/tmp/kvpool.toml");
  config << "[pool]\nstaging = \"12MiB\"\nbuffers = \"16MiB\"\n"
            "[[device]]\nkind = \"memory\"\nsize = \"16MiB\"\nnuma_node = 1\nlimit_read = \"60MB/s\"\n";
  for (const char* serial : {"fast", "middle", "slow"}) {
    config << "[[device]]\nkind = \"nvme\"\nname = \"" << serial << "\"\npath = \"" << path_of(serial)
           << "\"\nsize = \"90MiB\"\n";
  }
  config.close();
  const Outcome probed = kvpool("probe --config /tmp/kvpool.toml --seconds 2 --no-sweep --json");
  ASSERT_EQ(probed.status, 0) << probed.errors;
  const json devices = json::parse(probed.output)["devices"];
  const auto rate = [&](size_t drive, const char* how) { return devices[drive][how].get<double>(); };
  // Throttled to 40, 20 and 10 MB/s; a host that is busy makes them slower, the fastest most.
  for (const auto& [drive, most] : {std::pair(1, 48e6), std::pair(2, 24e6), std::pair(3, 12e6)}) {
    EXPECT_LT(rate(drive, "read_bytes_per_second"), most) << drive;
  }
  EXPECT_GT(rate(1, "read_bytes_per_second"), rate(2, "read_bytes_per_second"));
  EXPECT_GT(rate(2, "read_bytes_per_second"), rate(3, "read_bytes_per_second"));
  const Outcome planned = kvpool("plan --config /tmp/kvpool.toml --model llama-3.1-8b --tokens 1k --json");
  ASSERT_EQ(planned.status, 0) << planned.errors;
  const json plan = json::parse(planned.output)["devices"];
  for (size_t drive : {1, 2}) {
    const double shares = plan[drive]["planned_share"].get<double>() / plan[3]["planned_share"].get<double>();
    const double rates = rate(drive, "together_bytes_per_second") / rate(3, "together_bytes_per_second");
    EXPECT_NEAR(shares / rates, 1, 0.3) << drive;
  }
  // Forty requests of growing conversations: what is stored comes back right.
  std::ofstream trace("/tmp/trace.jsonl");
  for (int request = 0; request < 40; ++request) {
    json line = {{"timestamp", request * 100},
                 {"input_length", 512 * (request / 4 + 1)},
                 {"output_length", 1},
                 {"hash_ids", json::array()}};
    for (int block = 0; block <= request / 4; ++block)
      line["hash_ids"].push_back(1000 * (request % 4) + block);
    trace << line.dump() << "\n";
  }
  trace.close();
  const Outcome replayed =
      kvpool("replay /tmp/trace.jsonl --config /tmp/kvpool.toml --bytes-per-token 1024 --json");
  ASSERT_EQ(replayed.status, 0) << replayed.errors;
  const json result = json::parse(replayed.output);
  EXPECT_EQ(result["blocks"], 220);
  EXPECT_EQ(result["hit_blocks"], 180);
  EXPECT_EQ(result["stored_blocks"], 40);
  EXPECT_EQ(result["wrong_blocks"], 0);
  EXPECT_EQ(result["bounced_bytes"], 0) << "the drives read and write the consumer's own memory";
}

// Chunk files on one drive's ext4, a pool's file beside them, another drive by passthrough: every system
// brings the same bytes back. Emulated, so nothing is asserted of speed.
TEST_F(NvmeDrives, AreComparedWithFilesByLongdoc) {
  fs::create_directories("/tmp/mounted");
  ASSERT_EQ(mount(block_path_of("ext4").c_str(), "/tmp/mounted", "ext4", 0, nullptr), 0);
  std::ofstream("/tmp/longdoc.toml")
      << "[pool]\nstaging = \"4MiB\"\n"
         "[[device]]\nkind = \"memory\"\nsize = \"2MiB\"\n"
         "[[device]]\nkind = \"file\"\nname = \"file\"\npath = \"/tmp/mounted/pool\"\n"
         "size = \"8MiB\"\n"
         "[[device]]\nkind = \"nvme\"\nname = \"drive\"\npath = \""
      << path_of("suite")
      << "\"\nsize = \"8MiB\"\n"
         "[[namespace]]\nname = \"small\"\nblock_tokens = 16\nsegment_bytes = \"64KiB\"\n"
         "segments = 8\n";
  const Outcome run = kvpool(
      "bench longdoc --config /tmp/longdoc.toml --model small --tokens 128 --documents 2 --repeat 1 --json");
  EXPECT_EQ(unmount("/tmp/mounted"), 0);
  ASSERT_EQ(run.status, 0) << run.errors;
  const json result = json::parse(run.output);
  EXPECT_TRUE(result["left_out"].empty());
  std::map<std::string, json> systems;
  for (const json& system : result["systems"]) {
    const std::string name = system["system"];
    systems[name] = system;
    EXPECT_EQ(system["wrong_blocks"], 0) << name;
    EXPECT_GT(system["limit_gbps"], 0) << name;
    EXPECT_EQ(system["devices"][0]["bytes"].get<uint64_t>() + system["devices"][1]["bytes"].get<uint64_t>(),
              8 * mib)
        << name;
    EXPECT_EQ(system["devices"][1]["name"], name.ends_with("passthrough") ? "drive" : "file") << name;
    // One thread, which sleeps in its calls, or the four workers that read files.
    const double wall_s = system["busy_bin_s"].get<double>() * 60;
    EXPECT_GT(system["blocked_s"], 0) << name;
    EXPECT_LE(system["blocked_s"], wall_s * (name.ends_with("files") ? 4 : 1) * 1.01) << name;
    // The kernel counts in ticks of up to 10 ms: these drives answer within one, and a part of one at each
    // end is a whole one.
    const bool by_kernel = system["device_s_from"] == "kernel";
    EXPECT_GE(system["device_s"].get<double>(), by_kernel ? 0 : 1e-6) << name;
    EXPECT_LE(system["device_s"].get<double>(), wall_s * 1.01 + (by_kernel ? 0.02 : 0)) << name;
  }
  EXPECT_EQ(systems.size(), 7U);
  EXPECT_TRUE(systems.contains("tiered-passthrough") && systems.contains("pooled-passthrough"));
  // Of the tiered system's sixteen blocks four lie in memory; a file's takes four calls at least. The pool
  // reads the same parts from files, four calls each, and by passthrough, in batches.
  EXPECT_GE(systems["tiered-files"]["io_calls"], 12 * 4);
  EXPECT_LT(systems["pooled-passthrough"]["io_calls"], systems["pooled-files"]["io_calls"]);
}

}  // namespace
}  // namespace kvpool
