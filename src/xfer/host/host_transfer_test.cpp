#include "xfer/host/host_transfer.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <algorithm>
#include <array>

#include "base/checksum.h"
#include "xfer/host/copy.h"

namespace kvpool {
namespace {

std::vector<std::byte> random_bytes(size_t size, uint64_t seed) {
  Prng prng(seed);
  std::vector<std::byte> bytes(size);
  for (std::byte& b : bytes) b = static_cast<std::byte>(prng.next());
  return bytes;
}

// Sleeps as the engine does, until a completion is there.
TransferCompletion wait_for_one(HostTransfer& transfer) {
  std::array<TransferCompletion, 1> out;
  while (true) {
    if (transfer.poll(out) == 1) return out[0];
    transfer.prepare_wait();
    const bool came = transfer.poll(out) == 1;
    if (!came) {
      pollfd readable{transfer.wait_fd(), POLLIN, 0};
      EXPECT_EQ(poll(&readable, 1, 30000), 1) << "nobody woke the owner";
    }
    transfer.done_wait();
    if (came) return out[0];
  }
}

class CopySizes : public ::testing::TestWithParam<size_t> {};

TEST_P(CopySizes, CopyAndChecksumAgreeWithThePlainOnes) {
  const size_t size = GetParam();
  for (const size_t shift : {size_t{0}, size_t{1}, size_t{33}}) {
    const auto source = random_bytes(size + shift, 42 + size);
    std::vector<std::byte> destination(size + shift + 64, std::byte{0x5a});
    const uint64_t sum = copy_and_checksum(destination.data() + shift, source.data() + shift, size, 99);
    EXPECT_EQ(sum, checksum({source.data() + shift, size}, 99));
    EXPECT_TRUE(std::equal(source.begin() + shift, source.end(), destination.begin() + shift));
    std::vector<std::byte> plain(size + shift + 64, std::byte{0x5a});
    copy_bytes(plain.data() + shift, source.data() + shift, size);
    EXPECT_EQ(plain, destination);
    // Nothing is written beside the range.
    EXPECT_TRUE(std::all_of(destination.begin(), destination.begin() + shift,
                            [](std::byte b) { return b == std::byte{0x5a}; }));
    EXPECT_TRUE(std::all_of(destination.end() - 64, destination.end(),
                            [](std::byte b) { return b == std::byte{0x5a}; }));
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, CopySizes,
                         ::testing::Values(0, 1, 63, 240, 241, 4096, 65535, 65536, 65537, 131071, 131072,
                                           131073, 1048576, 1048576 + 4097));

TEST(HostTransfer, CopiesSumsAndPads) {
  HostTransfer transfer(2);
  const auto source = random_bytes(100000, 1);
  std::vector<std::byte> destination(100000 + 2400 + 1, std::byte{0xff});
  TransferJob job;
  job.source = source.data();
  job.destination = destination.data();
  job.length_bytes = 100000;
  job.pad_bytes = 2400;
  job.sum = true;
  job.seed = 5;
  job.tag = 77;
  ASSERT_TRUE(transfer.submit(job));
  const TransferCompletion done = wait_for_one(transfer);
  EXPECT_EQ(done.tag, 77U);
  EXPECT_EQ(done.code, Errc::ok);
  EXPECT_EQ(done.checksum, checksum(source, 5));
  EXPECT_TRUE(std::equal(source.begin(), source.end(), destination.begin()));
  EXPECT_TRUE(std::all_of(destination.begin() + 100000, destination.end() - 1,
                          [](std::byte b) { return b == std::byte{0}; }));
  EXPECT_EQ(destination.back(), std::byte{0xff});
}

TEST(HostTransfer, SumsWithoutCopying) {
  HostTransfer transfer(1);
  const auto source = random_bytes(300000, 2);
  TransferJob job;
  job.source = source.data();
  job.length_bytes = 300000;
  job.sum = true;
  job.seed = 6;
  ASSERT_TRUE(transfer.submit(job));
  EXPECT_EQ(wait_for_one(transfer).checksum, checksum(source, 6));
}

TEST(HostTransfer, EveryJobCompletesOnceUnderBackPressure) {
  constexpr size_t slot_bytes = 512;
  constexpr uint64_t jobs = 20000;
  HostTransfer transfer(3);
  const auto source = random_bytes(slot_bytes, 3);
  std::vector<std::byte> destination(jobs * slot_bytes);
  std::vector<uint8_t> seen(jobs, 0);
  uint64_t sent = 0;
  uint64_t received = 0;
  uint64_t refused = 0;
  while (received < jobs) {
    for (; sent < jobs; ++sent) {
      TransferJob job;
      job.source = source.data();
      job.destination = destination.data() + sent * slot_bytes;
      job.length_bytes = slot_bytes;
      job.sum = true;
      job.seed = sent;
      job.tag = sent;
      if (!transfer.submit(job)) {
        ++refused;
        break;
      }
    }
    const TransferCompletion done = wait_for_one(transfer);
    ASSERT_LT(done.tag, jobs);
    ASSERT_EQ(seen[done.tag]++, 0);
    ASSERT_EQ(done.checksum, checksum(source, done.tag));
    ++received;
  }
  EXPECT_GT(refused, 0U);
  for (uint64_t i = 0; i < jobs; ++i) {
    ASSERT_TRUE(std::equal(source.begin(), source.end(), destination.begin() + i * slot_bytes));
  }
}

TEST(HostTransfer, BoundsItsQueue) {
  HostTransfer transfer(2);
  const auto source = random_bytes(64, 4);
  TransferJob job;
  job.source = source.data();
  job.length_bytes = 64;
  uint32_t accepted = 0;
  while (transfer.submit(job)) ++accepted;
  EXPECT_EQ(accepted, 2 * HostTransfer::jobs_per_worker_max);
  for (uint32_t i = 0; i < accepted; ++i) (void)wait_for_one(transfer);
  EXPECT_TRUE(transfer.submit(job));
  (void)wait_for_one(transfer);
}

TEST(HostTransfer, EndsWithJobsUnderWay) {
  const auto source = random_bytes(1 << 20, 7);
  std::vector<std::byte> destination(source.size());
  {
    HostTransfer transfer(2);
    TransferJob job;
    job.source = source.data();
    job.destination = destination.data();
    job.length_bytes = static_cast<uint32_t>(source.size());
    ASSERT_TRUE(transfer.submit(job));
  }
  EXPECT_EQ(source, destination);
}

}  // namespace
}  // namespace kvpool
