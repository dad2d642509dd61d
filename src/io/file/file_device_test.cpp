#include "io/file/file_device.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/checksum.h"
#include "base/prng.h"
#include "base/units.h"

namespace kvpool {
namespace {

class PoolFiles : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* const asked = std::getenv("TEST_TMPDIR");
    std::string pattern = std::string(asked != nullptr ? asked : ".") + "/kvpool_file_test_XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  [[nodiscard]] std::string path(const std::string& name = "pool") const { return folder_ + "/" + name; }
  std::string write_file(const std::string& name, const std::string& text) const {
    std::ofstream(path(name), std::ios::binary) << text;
    return path(name);
  }
  static std::string read_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  static void expect_refused(const std::string& path, Errc code, const std::string& words,
                             uint64_t size = 4 * mib) {
    const auto file = PoolFile::open(path, size);
    ASSERT_FALSE(file) << path;
    EXPECT_EQ(file.error().code, code) << file.error().message;
    EXPECT_NE(file.error().message.find(words), std::string::npos) << file.error().message;
  }

  std::string folder_;
};

TEST_F(PoolFiles, CreatesWhatTheFormatSays) {
  auto file = PoolFile::open(path(), 4 * mib);
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ(std::filesystem::file_size(path()), 5 * mib);
  struct stat about{};
  ASSERT_EQ(stat(path().c_str(), &about), 0);
  EXPECT_EQ(about.st_mode & 0777, 0600U);
  EXPECT_GE(static_cast<uint64_t>(about.st_blocks) * 512, 5 * mib);
  const std::string bytes = read_file(path());
  EXPECT_EQ(bytes.substr(0, 8), "KVPOOL\r\n");
  EXPECT_EQ(bytes.substr(8, 4), std::string("\1\0\0\0", 4));
  EXPECT_EQ(bytes.substr(32, 8), std::string("\0\0\x40\0\0\0\0\0", 8));
  EXPECT_EQ(bytes.find_first_not_of('\0', 4096), std::string::npos);
}

TEST_F(PoolFiles, LeavesForeignFilesAlone) {
  for (const std::string& text : {std::string("x"), std::string(10000, 'y'), std::string(4096, '\0'),
                                  std::string("KVPOOL\r\n"), "KVPOOL\r\n" + std::string(5000, '\0')}) {
    const std::string victim = write_file("victim", text);
    expect_refused(victim, Errc::not_ours, "left alone");
    EXPECT_EQ(read_file(victim), text);
  }
}

TEST_F(PoolFiles, LeavesADamagedOrNewerHeaderAlone) {
  ASSERT_TRUE(PoolFile::open(path(), mib));
  const std::string good = read_file(path());
  std::string damaged = good;
  damaged[40] = static_cast<char>(damaged[40] ^ 1);
  expect_refused(write_file("damaged", damaged), Errc::not_ours, "damaged");
  EXPECT_EQ(read_file(path("damaged")), damaged);

  PoolHeader newer = make_pool_header(mib, 4096);
  newer.version = 2;
  EXPECT_EQ(check_pool_header(newer, "x").error().code, Errc::not_ours);
  newer.checksum = XXH3_64bits(&newer, offsetof(PoolHeader, checksum));
  EXPECT_EQ(check_pool_header(newer, "x").error().code, Errc::unsupported);
}

TEST_F(PoolFiles, UsesAnEmptyFileAndItsOwnAgainAtTheSizeAskedFor) {
  write_file("pool", "");
  std::array<uint8_t, 16> first{};
  {
    auto file = PoolFile::open(path(), 8 * mib);
    ASSERT_TRUE(file) << file.error().message;
    first = file->header().uuid;
  }
  {
    auto file = PoolFile::open(path(), 2 * mib);
    ASSERT_TRUE(file) << file.error().message;
    EXPECT_NE(file->header().uuid, first);
    EXPECT_EQ(std::filesystem::file_size(path()), 3 * mib);
  }
  auto file = PoolFile::open(path(), 16 * mib);
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ(std::filesystem::file_size(path()), 17 * mib);
}

TEST_F(PoolFiles, RefusesASecondOpenInThisProcess) {
  auto file = PoolFile::open(path(), mib);
  ASSERT_TRUE(file);
  expect_refused(path(), Errc::in_use, "this process already");
}

TEST_F(PoolFiles, RefusesAFileOfAnotherProcessUntilItDies) {
  std::array<int, 2> ready{};
  ASSERT_EQ(pipe(ready.data()), 0);
  const pid_t child = fork();
  if (child == 0) {
    auto file = PoolFile::open(path(), mib);
    [[maybe_unused]] const auto written = write(ready[1], file ? "y" : "n", 1);
    pause();
    _exit(0);
  }
  char answer = 0;
  ASSERT_EQ(read(ready[0], &answer, 1), 1);
  ASSERT_EQ(answer, 'y');
  expect_refused(path(), Errc::in_use, "process " + std::to_string(child));
  auto info = inspect_pool_file(path());
  ASSERT_TRUE(info) << info.error().message;
  EXPECT_TRUE(info->in_use);
  EXPECT_EQ(info->header.owner_pid, static_cast<uint32_t>(child));
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  info = inspect_pool_file(path());
  ASSERT_TRUE(info) << info.error().message;
  EXPECT_FALSE(info->in_use);
  EXPECT_EQ(info->header.size_bytes, mib);
  EXPECT_EQ(info->file_bytes, 2 * mib);
  EXPECT_TRUE(PoolFile::open(path(), mib));
  close(ready[0]);
  close(ready[1]);
}

TEST_F(PoolFiles, RefusesWhatIsNoFile) {
  std::filesystem::create_directory(path("folder"));
  expect_refused(path("folder"), Errc::invalid_argument, "a directory");
  ASSERT_EQ(mkfifo(path("fifo").c_str(), 0600), 0);
  expect_refused(path("fifo"), Errc::invalid_argument, "a FIFO");
  ASSERT_EQ(symlink("/dev/null", path("link").c_str()), 0);
  expect_refused(path("link"), Errc::invalid_argument, "a character device");
  ASSERT_EQ(symlink(path("nothing").c_str(), path("dangling").c_str()), 0);
  expect_refused(path("dangling"), Errc::invalid_argument, "a link to something that cannot be found");
  expect_refused(path("missing/pool"), Errc::invalid_argument, "no directory");
  const auto missing = inspect_pool_file(path("nothing"));
  ASSERT_FALSE(missing);
  const auto foreign = inspect_pool_file(write_file("foreign", "hello"));
  ASSERT_FALSE(foreign);
  EXPECT_EQ(foreign.error().code, Errc::not_ours);
}

TEST_F(PoolFiles, RefusesMoreThanFitsAndLeavesNothingBehind) {
  expect_refused(path(), Errc::system, "free", 1ULL << 50);
  EXPECT_FALSE(std::filesystem::exists(path()));
}

class FileDevices : public PoolFiles {
 protected:
  static constexpr size_t buffer_size = 4 * mib;

  void SetUp() override {
    PoolFiles::SetUp();
    memory_.reset(static_cast<std::byte*>(std::aligned_alloc(4096, 2 * buffer_size)));
    std::fill_n(memory_.get(), 2 * buffer_size, std::byte{0});
  }
  std::unique_ptr<FileDevice> open(uint32_t depth, bool registered) {
    auto device =
        FileDevice::open({.name = "file0", .path = path(), .size_bytes = 16 * mib, .queue_depth = depth});
    if (!device) {
      failure_ = device.error();
      return nullptr;
    }
    const std::array<std::span<std::byte>, 1> regions = {std::span(memory_.get(), buffer_size)};
    if (registered) {
      EXPECT_TRUE((*device)->start(regions));
    } else {
      EXPECT_TRUE((*device)->start({}));
    }
    return std::move(*device);
  }
  static IoRequest request(IoKind kind, uint64_t offset, uint32_t length, std::byte* buffer, uint64_t tag) {
    IoRequest made;
    made.kind = kind;
    made.offset = ByteOffset(offset);
    made.length_bytes = length;
    made.buffer = buffer;
    made.tag = tag;
    return made;
  }
  // Sleeps on wait_fd() as the engine does.
  static IoCompletion wait_for_one(FileDevice& device) {
    std::array<IoCompletion, 1> out;
    while (device.poll(out) == 0) {
      if (device.next_event_time() != never) continue;
      pollfd readable{device.wait_fd(), POLLIN, 0};
      EXPECT_EQ(poll(&readable, 1, 30000), 1) << "the ring's descriptor did not wake its sleeper";
    }
    return out[0];
  }

  Error failure_;
  std::unique_ptr<std::byte, decltype(&std::free)> memory_{nullptr, &std::free};
};

#define OPEN_OR_SKIP(device, depth, registered)                      \
  auto device = open(depth, registered);                             \
  if (device == nullptr) {                                           \
    ASSERT_EQ(failure_.code, Errc::unsupported) << failure_.message; \
    GTEST_SKIP() << failure_.message;                                \
  }                                                                  \
  static_assert(true)

TEST_F(FileDevices, ReadsBackWhatWasWritten) {
  for (const bool registered : {true, false}) {
    OPEN_OR_SKIP(device, 8, registered);
    EXPECT_TRUE(device->limits().storage);
    EXPECT_FALSE(device->limits().in_place);
    EXPECT_GE(device->limits().alignment_bytes, 4096U);
    Prng prng(registered ? 1 : 2);
    for (size_t i = 0; i < buffer_size; ++i) memory_.get()[i] = static_cast<std::byte>(prng.next());
    const std::vector<std::byte> sent(memory_.get(), memory_.get() + buffer_size);
    const uint64_t offset = 16 * mib - buffer_size;
    ASSERT_TRUE(device->submit(request(IoKind::write, offset, buffer_size, memory_.get(), 7)));
    IoCompletion done = wait_for_one(*device);
    EXPECT_EQ(done.tag, 7U);
    EXPECT_EQ(done.code, Errc::ok);
    EXPECT_EQ(done.bytes, buffer_size);
    // The second half of the memory is in no registered region.
    std::byte* const elsewhere = memory_.get() + buffer_size;
    ASSERT_TRUE(device->submit(request(IoKind::read, offset, buffer_size, elsewhere, 8)));
    EXPECT_EQ(wait_for_one(*device).bytes, buffer_size);
    EXPECT_TRUE(std::equal(sent.begin(), sent.end(), elsewhere));
    std::fill_n(memory_.get(), buffer_size, std::byte{0});
    ASSERT_TRUE(device->submit(request(IoKind::read, offset + 4096, 8192, memory_.get() + 4096, 9)));
    EXPECT_EQ(wait_for_one(*device).code, Errc::ok);
    EXPECT_TRUE(std::equal(sent.begin() + 4096, sent.begin() + 12288, memory_.get() + 4096));
    EXPECT_EQ(memory_.get()[4095], std::byte{0});
    EXPECT_EQ(memory_.get()[12288], std::byte{0});
  }
}

TEST_F(FileDevices, AConsumersMemoryIsRegisteredBesideThePools) {
  const std::array<std::span<std::byte>, 1> regions = {std::span(memory_.get(), buffer_size)};
  std::byte* const own = memory_.get() + buffer_size;
  auto device = FileDevice::open({.name = "file0", .path = path(), .size_bytes = 16 * mib, .queue_depth = 8});
  if (!device) GTEST_SKIP() << device.error().message;
  (*device)->offer({own, buffer_size});
  ASSERT_TRUE((*device)->start(regions));
  if (!(*device)->registered(memory_.get(), buffer_size)) GTEST_SKIP() << "no memory may be locked here";
  EXPECT_TRUE((*device)->registered(own, buffer_size));
  EXPECT_FALSE((*device)->registered(own - 4096, 8192));
  std::fill_n(own, buffer_size, std::byte{0x5a});
  ASSERT_TRUE((*device)->submit(request(IoKind::write, 0, buffer_size, own, 1)));
  EXPECT_EQ(wait_for_one(**device).bytes, buffer_size);
  ASSERT_TRUE((*device)->submit(request(IoKind::read, 0, buffer_size, memory_.get(), 2)));
  EXPECT_EQ(wait_for_one(**device).bytes, buffer_size);
  EXPECT_TRUE(std::equal(own, own + buffer_size, memory_.get()));
}

TEST_F(FileDevices, MemoryThatCannotBeRegisteredLeavesThePoolsRegistered) {
  const std::array<std::span<std::byte>, 1> regions = {std::span(memory_.get(), buffer_size)};
  auto device = FileDevice::open({.name = "file0", .path = path(), .size_bytes = 16 * mib, .queue_depth = 8});
  if (!device) GTEST_SKIP() << device.error().message;
  void* const forbidden = mmap(nullptr, mib, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(forbidden, MAP_FAILED);
  (*device)->offer({static_cast<std::byte*>(forbidden), mib});
  EXPECT_TRUE((*device)->start(regions));
  EXPECT_FALSE((*device)->registered(static_cast<std::byte*>(forbidden), 4096));
  auto plain = FileDevice::open({.name = "file1", .path = path() + "1", .size_bytes = mib, .queue_depth = 8});
  ASSERT_TRUE(plain) << plain.error().message;
  ASSERT_TRUE((*plain)->start(regions));
  EXPECT_EQ((*device)->registered(memory_.get(), buffer_size),
            (*plain)->registered(memory_.get(), buffer_size));
  munmap(forbidden, mib);
}

TEST_F(FileDevices, PayloadStaysOutOfTheHeader) {
  OPEN_OR_SKIP(device, 8, true);
  const PoolHeader before = device->header();
  std::fill_n(memory_.get(), buffer_size, std::byte{0xff});
  for (uint64_t offset = 0; offset < 16 * mib; offset += buffer_size) {
    ASSERT_TRUE(device->submit(request(IoKind::write, offset, buffer_size, memory_.get(), 0)));
    EXPECT_EQ(wait_for_one(*device).code, Errc::ok);
  }
  EXPECT_EQ(std::filesystem::file_size(path()), 17 * mib);
  device.reset();
  const auto info = inspect_pool_file(path());
  ASSERT_TRUE(info) << info.error().message;
  EXPECT_EQ(info->header.uuid, before.uuid);
  EXPECT_FALSE(info->in_use);
}

TEST_F(FileDevices, EveryRequestCompletesOnceAtFullDepth) {
  OPEN_OR_SKIP(device, 5, true);
  uint64_t sent = 0;
  std::vector<int> seen(200, 0);
  for (uint64_t received = 0; received < seen.size(); ++received) {
    for (; sent < seen.size(); ++sent) {
      std::byte* const buffer = memory_.get() + (sent % 64) * 65536;
      if (!device->submit(request(sent % 2 == 0 ? IoKind::write : IoKind::read, (sent % 250) * 65536, 65536,
                                  buffer, sent))) {
        break;
      }
    }
    EXPECT_LE(sent - received, 5U);
    const IoCompletion done = wait_for_one(*device);
    ASSERT_EQ(done.code, Errc::ok);
    ASSERT_EQ(seen[done.tag]++, 0);
  }
}

TEST_F(FileDevices, SaysWhenARequestWasShortOrFailed) {
  OPEN_OR_SKIP(device, 8, true);
  // Somebody cuts the file below the pool.
  ASSERT_EQ(truncate(path().c_str(), static_cast<off_t>(2 * mib + 4096)), 0);
  ASSERT_TRUE(device->submit(request(IoKind::read, mib, 65536, memory_.get(), 1)));
  IoCompletion done = wait_for_one(*device);
  EXPECT_EQ(done.code, Errc::short_io);
  EXPECT_EQ(done.bytes, 4096U);
  ASSERT_TRUE(device->submit(request(IoKind::read, 8 * mib, 65536, memory_.get(), 2)));
  done = wait_for_one(*device);
  EXPECT_EQ(done.code, Errc::short_io);
  EXPECT_EQ(done.bytes, 0U);
  // Memory that nobody may write.
  void* const forbidden = mmap(nullptr, 65536, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(forbidden, MAP_FAILED);
  ASSERT_TRUE(device->submit(request(IoKind::read, 0, 65536, static_cast<std::byte*>(forbidden), 3)));
  done = wait_for_one(*device);
  EXPECT_EQ(done.tag, 3U);
  EXPECT_EQ(done.code, Errc::io_error);
  EXPECT_EQ(done.bytes, 0U);
  munmap(forbidden, 65536);
}

TEST_F(FileDevices, BelongsToTheThreadThatStartsIt) {
  auto device = FileDevice::open({.name = "file0", .path = path(), .size_bytes = mib, .queue_depth = 8});
  if (!device && device.error().code == Errc::unsupported) GTEST_SKIP() << device.error().message;
  ASSERT_TRUE(device) << device.error().message;
  IoCompletion done;
  std::thread owner([&] {
    EXPECT_TRUE((*device)->start({}));
    EXPECT_TRUE((*device)->submit(request(IoKind::write, 0, 65536, memory_.get(), 5)));
    done = wait_for_one(**device);
  });
  owner.join();
  EXPECT_EQ(done.tag, 5U);
  EXPECT_EQ(done.code, Errc::ok);
  device->reset();
  EXPECT_TRUE(PoolFile::open(path(), mib));
}

TEST_F(FileDevices, RefusesImpossibleOptions) {
  EXPECT_FALSE(FileDevice::open({.name = "f", .path = path(), .size_bytes = 100, .queue_depth = 8}));
  EXPECT_FALSE(FileDevice::open({.name = "f", .path = path(), .size_bytes = mib, .queue_depth = 0}));
  EXPECT_FALSE(FileDevice::open({.name = "f", .path = path(), .size_bytes = mib, .queue_depth = 5000}));
  EXPECT_FALSE(std::filesystem::exists(path()));
}

}  // namespace
}  // namespace kvpool
