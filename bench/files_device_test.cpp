#include "bench/files_device.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "bench/files_storage.h"
#include "bench/testing/test_machine.h"

namespace kvpool::bench {
namespace {

constexpr uint64_t chunk_bytes = 64 * 1024;

void write_text(const std::string& path, const std::string& text) { std::ofstream(path) << text; }

IoCompletion run(Device& device, const IoRequest& request) {
  EXPECT_TRUE(device.submit(request));
  std::array<IoCompletion, 4> done;
  while (true) {
    if (device.poll(done) == 1) return done[0];
    pollfd fd{device.wait_fd(), POLLIN, 0};
    EXPECT_EQ(::poll(&fd, 1, 10'000), 1);
  }
}

TEST(FilesDirectory, RefusesAFolderThatIsNotOurs) {
  const TestFolder folder;
  std::filesystem::create_directory(folder.path("pool.files"));
  write_text(folder.path("pool.files/chunk-000000"), "precious");
  const auto refused = FilesDirectory::create(folder.path("pool.files"));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Errc::not_ours);
  EXPECT_EQ(std::filesystem::file_size(folder.path("pool.files/chunk-000000")), 8U);
}

TEST(FilesDirectory, RefusesAMarkerWithOtherWordsAndAFile) {
  const TestFolder folder;
  std::filesystem::create_directory(folder.path("a.files"));
  write_text(folder.path("a.files/KVPOOL-BENCH"),
             "something else that is long enough to be read as a marker!!");
  EXPECT_EQ(FilesDirectory::create(folder.path("a.files")).error().code, Errc::not_ours);
  write_text(folder.path("b.files"), "a file");
  EXPECT_EQ(FilesDirectory::create(folder.path("b.files")).error().code, Errc::not_ours);
  EXPECT_EQ(FilesDirectory::create(folder.path("no/folder")).error().code, Errc::system);
}

TEST(FilesDirectory, RefusesASecondUserAndRemovesWhatItMade) {
  const TestFolder folder;
  {
    auto first = FilesDirectory::create(folder.path("pool.files"));
    ASSERT_TRUE(first) << first.error().message;
    ASSERT_TRUE((*first)->make_chunks(3, chunk_bytes));
    EXPECT_EQ(std::filesystem::file_size(folder.path("pool.files/chunk-000002")), chunk_bytes);
    EXPECT_EQ(FilesDirectory::create(folder.path("pool.files")).error().code, Errc::in_use);
  }
  EXPECT_FALSE(std::filesystem::exists(folder.path("pool.files")));
}

TEST(FilesDirectory, TakesOverWhatAnEndedRunLeftAndSparesForeignFiles) {
  const TestFolder folder;
  {
    auto made = FilesDirectory::create(folder.path("keep.files"));
  }
  {
    auto made = FilesDirectory::create(folder.path("pool.files"));
    ASSERT_TRUE(made);
    std::filesystem::copy_file(folder.path("pool.files/KVPOOL-BENCH"), folder.path("marker"));
  }
  std::filesystem::create_directory(folder.path("pool.files"));
  std::filesystem::copy_file(folder.path("marker"), folder.path("pool.files/KVPOOL-BENCH"));
  write_text(folder.path("pool.files/chunk-000007"), "left over");
  write_text(folder.path("pool.files/chunk-notes"), "mine");
  {
    auto again = FilesDirectory::create(folder.path("pool.files"));
    ASSERT_TRUE(again) << again.error().message;
    EXPECT_FALSE(std::filesystem::exists(folder.path("pool.files/chunk-000007")));
  }
  EXPECT_TRUE(std::filesystem::exists(folder.path("pool.files/chunk-notes")));
}

class FilesDeviceTest : public testing::Test {
 protected:
  void SetUp() override {
    auto made = FilesDirectory::create(folder_.path("pool.files"));
    ASSERT_TRUE(made);
    directory_ = std::move(*made);
    auto device = FilesDevice::create(
        *directory_, {.name = "files", .size_bytes = 4 * chunk_bytes + 5000, .chunk_bytes = chunk_bytes});
    ASSERT_TRUE(device) << device.error().message;
    device_ = std::move(*device);
  }

  TestFolder folder_;
  std::unique_ptr<FilesDirectory> directory_;
  std::unique_ptr<FilesDevice> device_;
};

TEST_F(FilesDeviceTest, ReadsBackWhatWasWrittenAcrossChunksFromTheDisk) {
  EXPECT_EQ(device_->limits().size_bytes, 4 * chunk_bytes);
  std::vector<std::byte> out(2 * chunk_bytes);
  for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<std::byte>(i * 7 + i / 256);
  const auto length = static_cast<uint32_t>(out.size());
  const ByteOffset at(chunk_bytes / 2);
  EXPECT_EQ(
      run(*device_, {.kind = IoKind::write, .offset = at, .length_bytes = length, .buffer = out.data()}).code,
      Errc::ok);
  EXPECT_GT(*directory_->cached_bytes(), 0U);
  ASSERT_TRUE(directory_->drop_cache());
  EXPECT_EQ(*directory_->cached_bytes(), 0U);
  std::vector<std::byte> in(out.size());
  const IoCompletion read = run(
      *device_, {.kind = IoKind::read, .offset = at, .length_bytes = length, .buffer = in.data(), .tag = 9});
  EXPECT_EQ(read.code, Errc::ok);
  EXPECT_EQ(read.bytes, length);
  EXPECT_EQ(read.tag, 9U);
  EXPECT_EQ(in, out);
}

TEST_F(FilesDeviceTest, ForgetsWhatItReadWhenTold) {
  std::vector<std::byte> data(chunk_bytes, std::byte{3});
  ASSERT_EQ(run(*device_, {.kind = IoKind::write,
                           .offset = ByteOffset(0),
                           .length_bytes = chunk_bytes,
                           .buffer = data.data()})
                .code,
            Errc::ok);
  ASSERT_TRUE(directory_->drop_cache());
  ASSERT_EQ(
      run(*device_,
          {.kind = IoKind::read, .offset = ByteOffset(0), .length_bytes = chunk_bytes, .buffer = data.data()})
          .code,
      Errc::ok);
  EXPECT_GE(*directory_->cached_bytes(), chunk_bytes);
  ASSERT_TRUE(directory_->drop_cache());
  device_->set_forget(true);
  ASSERT_EQ(
      run(*device_,
          {.kind = IoKind::read, .offset = ByteOffset(0), .length_bytes = chunk_bytes, .buffer = data.data()})
          .code,
      Errc::ok);
  EXPECT_EQ(*directory_->cached_bytes(), 0U);
}

TEST_F(FilesDeviceTest, AFileThatEndsEarlyIsAShortRequest) {
  std::filesystem::resize_file(folder_.path("pool.files/chunk-000001"), 4096);
  std::vector<std::byte> in(chunk_bytes);
  const IoCompletion read = run(*device_, {.kind = IoKind::read,
                                           .offset = ByteOffset(chunk_bytes),
                                           .length_bytes = chunk_bytes,
                                           .buffer = in.data()});
  EXPECT_EQ(read.code, Errc::short_io);
  EXPECT_EQ(read.bytes, 4096U);
  std::filesystem::remove(folder_.path("pool.files/chunk-000001"));
  EXPECT_EQ(run(*device_, {.kind = IoKind::read,
                           .offset = ByteOffset(chunk_bytes),
                           .length_bytes = 4096,
                           .buffer = in.data()})
                .code,
            Errc::io_error);
}

TEST_F(FilesDeviceTest, RefusesMoreThanItsQueueHolds) {
  std::vector<std::byte> data(4096);
  uint32_t taken = 0;
  const IoRequest request{
      .kind = IoKind::read, .offset = ByteOffset(0), .length_bytes = 4096, .buffer = data.data()};
  // Nothing is polled, so nothing leaves the queue.
  while (device_->submit(request)) ++taken;
  EXPECT_EQ(taken, device_->limits().queue_depth_max);
  std::array<IoCompletion, 8> done;
  for (uint32_t polled = 0; polled < taken;) polled += static_cast<uint32_t>(device_->poll(done));
  EXPECT_EQ(run(*device_, request).code, Errc::ok);  // there is room again
}

TEST(FilesStorage, ServesFileDevicesAlone) {
  const TestFolder folder;
  FilesStorage storage;
  DeviceConfig device = file_config(4 * chunk_bytes, folder.path("p"));
  device.kind = DeviceKind::null;
  EXPECT_EQ(storage.make(device, chunk_bytes).error().code, Errc::unsupported);
  device.kind = DeviceKind::file;
  for (const auto& entry : std::filesystem::directory_iterator("/dev")) {
    if (!entry.is_block_file()) continue;
    DeviceConfig block = device;
    block.path = entry.path();
    EXPECT_EQ(storage.make(block, chunk_bytes).error().code, Errc::unsupported);
  }
  const auto made = storage.make(device, chunk_bytes);
  ASSERT_TRUE(made) << made.error().message;
  EXPECT_TRUE(std::filesystem::exists(folder.path("p.files/chunk-000003")));
  EXPECT_TRUE(storage.make_cold(false));
}

}  // namespace
}  // namespace kvpool::bench
