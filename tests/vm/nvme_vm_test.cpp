// NVMe drives as they are met in the field, in the virtual machine of vm_test.py, which says what each drive
// is.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "io/nvme/nvme_device.h"

namespace kvpool {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr uint64_t mib = 1ULL << 20;

// "ng2n1": controllers are numbered as they answer, so a drive is known by its serial number.
std::string name_of(const std::string& serial) {
  for (const auto& entry : fs::directory_iterator("/sys/class/nvme-generic")) {
    std::ifstream file(entry.path() / "device/serial");
    std::string line;
    std::getline(file, line);
    if (line.substr(0, line.find(' ')) == serial) return entry.path().filename().string();
  }
  ADD_FAILURE() << "no drive " << serial;
  return "none";
}
std::string path_of(const std::string& serial) { return "/dev/" + name_of(serial); }
std::string block_path_of(const std::string& serial) { return "/dev/nvme" + name_of(serial).substr(2); }

// A drive's first bytes and its last, to see that nobody wrote there.
std::string edges_of(const std::string& serial) {
  std::ifstream file(block_path_of(serial), std::ios::binary);
  std::string bytes(2 * mib, '\0');
  file.read(bytes.data(), mib);
  file.seekg(-static_cast<std::streamoff>(mib), std::ios::end);
  file.read(bytes.data() + mib, mib);
  return bytes;
}

struct Outcome {
  int status = -1;
  std::string output;
  std::string errors;
};
Outcome kvpool(const std::string& arguments) {
  Outcome outcome;
  FILE* pipe = popen(("/usr/bin/kvpool " + arguments + " 2>/tmp/errors").c_str(), "r");
  std::array<char, 4096> part;
  while (size_t count = fread(part.data(), 1, part.size(), pipe)) outcome.output.append(part.data(), count);
  outcome.status = WEXITSTATUS(pclose(pipe));
  std::ifstream file("/tmp/errors");
  outcome.errors.assign(std::istreambuf_iterator<char>(file), {});
  return outcome;
}

class NvmeDrives : public testing::Test {
 protected:
  void SetUp() override {
    if (std::getenv("KVPOOL_TEST_NVME_SERIAL") == nullptr) GTEST_SKIP() << "runs in make test-vm";
  }
  static Result<std::unique_ptr<NvmeDevice>> open(const std::string& serial, uint64_t size_bytes = 8 * mib) {
    return NvmeDevice::open(
        {.name = serial, .path = path_of(serial), .size_bytes = size_bytes, .queue_depth = 8});
  }
  // The message of a refusal that left the drive as it was.
  static std::string refusal(const std::string& serial, uint64_t size_bytes = 8 * mib) {
    const std::string before = edges_of(serial);
    const auto device = open(serial, size_bytes);
    EXPECT_TRUE(before == edges_of(serial)) << serial << " was written to";
    return device ? "none" : device.error().message;
  }
};

#define EXPECT_HAS(text, part) EXPECT_NE(std::string(text).find(part), std::string::npos) << (text)

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
  EXPECT_HAS(refusal("ext4"), "holds data that kvpool did not write; it was left alone");
  EXPECT_HAS(refusal("partitions"), "has partitions; it was left alone");
  EXPECT_HAS(refusal("middling"), "holds data that kvpool did not write");
  EXPECT_HAS(refusal("suite", 47 * mib), "has room for 46 MiB");
}

TEST_F(NvmeDrives, ThatTheKernelUsesAreRefused) {
  fs::create_directories("/tmp/mounted");
  ASSERT_EQ(mount(block_path_of("ext4").c_str(), "/tmp/mounted", "ext4", 0, nullptr), 0) << strerror(errno);
  EXPECT_HAS(refusal("ext4"), "is mounted; it was left alone");
  ASSERT_EQ(umount("/tmp/mounted"), 0);
  // Blank, and yet somebody's: whoever holds the block device for himself.
  const int held = ::open(block_path_of("suite").c_str(), O_RDWR | O_EXCL | O_CLOEXEC);
  ASSERT_GE(held, 0) << strerror(errno);
  EXPECT_HAS(refusal("suite"), "is in use by the kernel or another process");
  close(held);
  ASSERT_EQ(std::system(("mkswap " + block_path_of("swap") + " >/dev/null").c_str()), 0);
  ASSERT_EQ(swapon(block_path_of("swap").c_str(), 0), 0) << strerror(errno);
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
  EXPECT_EQ(drives.size(), 10U);
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

TEST_F(NvmeDrives, SayWhichCommandFailed) {
  auto opened = open("bad", 90 * mib);
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
  EXPECT_NEAR(devices[1]["read_bytes_per_second"].get<double>(), 40e6, 8e6);
  EXPECT_NEAR(devices[2]["read_bytes_per_second"].get<double>(), 20e6, 4e6);
  EXPECT_NEAR(devices[3]["read_bytes_per_second"].get<double>(), 10e6, 2e6);
  const Outcome planned = kvpool("plan --config /tmp/kvpool.toml --model llama-3.1-8b --tokens 1k --json");
  ASSERT_EQ(planned.status, 0) << planned.errors;
  const json plan = json::parse(planned.output)["devices"];
  EXPECT_NEAR(plan[1]["planned_share"].get<double>() / plan[3]["planned_share"].get<double>(), 4, 1);
  EXPECT_NEAR(plan[2]["planned_share"].get<double>() / plan[3]["planned_share"].get<double>(), 2, 0.6);
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
  EXPECT_EQ(umount("/tmp/mounted"), 0);
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
    EXPECT_GT(system["device_s"], 0) << name;
    EXPECT_LE(system["device_s"], wall_s * 1.01) << name;
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
