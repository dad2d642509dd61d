// Sums of what has come into the pages, against the CPU's.

#include <array>
#include <chrono>
#include <vector>

#include "base/checksum.h"
#include "xfer/cuda/plugin/cuda_transfer.h"
#include "xfer/cuda/plugin/hardware/gpu_fixture.h"

namespace kvpool {
namespace {

constexpr uint32_t pages = 512;

// Two layers, the second one with pages of two pieces.
class GpuChecks : public testing::Test {
 protected:
  void start(uint64_t page_bytes) {
    page_bytes_ = page_bytes;
    const uint64_t layer_bytes = pages * (page_bytes + 1040);
    ASSERT_TRUE(make_device_memory(device_, 2 * layer_bytes));
    ASSERT_TRUE(make_pinned(host_, host_bytes()));
    const auto words = std::span(reinterpret_cast<uint64_t*>(host_.get()), host_bytes() / 8);
    for (size_t i = 0; i < words.size(); ++i) words[i] = mix64(i);
    auto opened = CudaTransfer::open({.staging_bytes = 4 << 20, .give_way_bytes = 1 << 20});
    ASSERT_TRUE(opened) << opened.error().message;
    transfer_ = std::move(*opened);
    ASSERT_TRUE(transfer_->register_host({host_.get(), host_bytes()}));
    const PagedPiece head{0, 1024};
    const PagedPiece tail{1040, page_bytes - 1024};
    std::vector<PagedPiece> two = {head};
    if (tail.length_bytes > 0) two.push_back(tail);
    ASSERT_TRUE(transfer_->set_layers({{.base = device_.get(),
                                        .page_stride_bytes = page_bytes,
                                        .pages = pages,
                                        .pieces = {{0, page_bytes}}},
                                       {.base = device_.get() + layer_bytes,
                                        .page_stride_bytes = page_bytes + 1040,
                                        .pages = pages,
                                        .pieces = two}}));
  }
  [[nodiscard]] uint64_t host_bytes() const { return pages * page_bytes_; }
  // Segments of so many pages each, side by side, one behind the other in both layers.
  void list(const std::vector<uint32_t>& counts, bool mixed) {
    segments_.clear();
    numbers_.clear();
    for (const uint32_t count : counts) {
      const auto first = static_cast<uint32_t>(numbers_.size());
      ASSERT_LE(first + count, pages);
      std::byte* const host = host_.get() + first * page_bytes_;
      for (uint32_t i = first; i < first + count; ++i) {
        numbers_.push_back(static_cast<int32_t>(mixed ? i * 77 % pages : i));
      }
      const uint64_t seed = mix64(first + 1);
      segments_.push_back({host, static_cast<uint32_t>(segments_.size() % 2), first, count});
      segments_.back().check = PagedCheck{.seed = seed, .sum = checksum({host, count * page_bytes_}, seed)};
    }
  }
  [[nodiscard]] Errc load() {
    const auto ticket = transfer_->submit(
        {.direction = GpuDirection::load, .segments = segments_, .pages = numbers_, .after = {}});
    EXPECT_TRUE(ticket) << ticket.error().message;
    std::array<GpuCompletion, 1> taken;
    const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (ticket && transfer_->poll(taken) == 0) {
      if (std::chrono::steady_clock::now() > limit) return Errc::timed_out;
    }
    return taken[0].code;
  }
  void TearDown() override { transfer_.reset(); }

  uint64_t page_bytes_ = 0;
  DeviceMemory device_;
  Pinned<std::byte> host_;
  std::unique_ptr<GpuTransfer> transfer_;
  std::vector<PagedSegment> segments_;
  std::vector<int32_t> numbers_;
};

TEST_F(GpuChecks, FindWhatTheCpuFinds) {
  for (const uint64_t page_bytes : {1024U, 5120U, 16384U, 65536U, 200U * 1024U}) {
    SCOPED_TRACE(page_bytes);
    start(page_bytes);
    for (const bool mixed : {false, true}) {
      for (const auto& counts : std::vector<std::vector<uint32_t>>{
               {1}, {1, 1}, {16, 16, 16}, {33, 1, 64, 100}, {512}, std::vector<uint32_t>(512, 1)}) {
        SCOPED_TRACE(counts.size());
        ASSERT_NO_FATAL_FAILURE(list(counts, mixed));
        EXPECT_EQ(load(), Errc::ok);
      }
    }
    transfer_.reset();
  }
}

// Any one bit, of the bytes, of the seed or of the sum; and what comes after is right again.
TEST_F(GpuChecks, FindEveryFault) {
  start(16384);
  Prng random(3);
  for (int round = 0; round < 200; ++round) {
    ASSERT_NO_FATAL_FAILURE(list({16, 31, 2, 64}, random.chance(0.5)));
    PagedSegment& segment = segments_[random.below(segments_.size())];
    const uint64_t bit = uint64_t{1} << random.below(64);
    std::byte& byte = segment.host[random.below(segment.pages_count * page_bytes_)];
    switch (round % 4) {
      case 0:
        segment.check->seed ^= bit;
        break;
      case 1:
        segment.check->sum ^= bit;
        break;
      case 2:
        segment.check.reset();
        EXPECT_EQ(load(), Errc::ok) << "a segment without a check";
        continue;
      default:
        byte ^= static_cast<std::byte>(1 << random.below(8));
        break;
    }
    EXPECT_EQ(load(), Errc::corrupt);
    EXPECT_EQ(transfer_->failure(), "");
    ASSERT_NO_FATAL_FAILURE(list({16, 31, 2, 64}, true));
    EXPECT_EQ(load(), Errc::ok);
  }
}

TEST_F(GpuChecks, AreRefusedWhereTheyCannotBe) {
  start(16384);
  ASSERT_NO_FATAL_FAILURE(list({4}, true));
  PagedBatch batch{.direction = GpuDirection::store, .segments = segments_, .pages = numbers_, .after = {}};
  auto refused = transfer_->submit(batch);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Errc::invalid_argument);
  batch.direction = GpuDirection::load;
  numbers_[2] = -1;
  refused = transfer_->submit(batch);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Errc::invalid_argument);
}

}  // namespace
}  // namespace kvpool
