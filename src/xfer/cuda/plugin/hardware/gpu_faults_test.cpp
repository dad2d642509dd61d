#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <string>

#include "xfer/cuda/plugin/cuda_transfer.h"
#include "xfer/cuda/plugin/hardware/cuda_faults.h"
#include "xfer/cuda/plugin/hardware/gpu_fixture.h"
#include "xfer/cuda/plugin/hardware/test_kernels.h"

namespace kvpool {
namespace {

constexpr uint64_t page_bytes = 64 << 10;
constexpr uint32_t pages = 48;
constexpr uint64_t cache_bytes = page_bytes * pages;
constexpr uint64_t slow_ms = 20;
// Calls that let a batch wait for an event, before it is put on streams.
constexpr int order_calls = 2;
// The two calls that come last only wake a sleeper.
constexpr int waking_calls = 2;

// A batch of three chunks of the ring, and what it moves.
class GpuFaults : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(make_device_memory(cache_, cache_bytes));
    ASSERT_TRUE(make_device_memory(aside_, cache_bytes));
    ASSERT_TRUE(make_pinned(host_, cache_bytes));
    external_ = make_external();
    later_ = make_external();
    for (uint32_t i = 0; i < pages; ++i) numbers_.push_back(static_cast<int32_t>(i * 37 % pages));
    ASSERT_CUDA(launch_slow_fill(aside_.get(), cache_bytes, 0, 0, external_.get()));
    ASSERT_CUDA(cudaStreamSynchronize(external_.get()));
  }
  void TearDown() override { fail_cuda_after(-1); }

  [[nodiscard]] std::unique_ptr<GpuTransfer> open() {
    auto opened = CudaTransfer::open(
        {.batches_max = 2, .pieces_max = 64, .staging_bytes = 4 << 20, .give_way_bytes = 1 << 20});
    EXPECT_TRUE(opened);
    if (!opened) return nullptr;
    EXPECT_TRUE((*opened)->register_host({host_.get(), cache_bytes}));
    EXPECT_TRUE((*opened)->set_layers({{.base = cache_.get(),
                                        .page_stride_bytes = page_bytes,
                                        .pages = pages,
                                        .pieces = {{0, page_bytes}}}}));
    return std::move(*opened);
  }
  [[nodiscard]] PagedBatch batch(GpuDirection direction) const {
    return {.direction = direction, .segments = segments_, .pages = numbers_, .after = {}};
  }
  [[nodiscard]] static Errc next_code(GpuTransfer& transfer) {
    const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    std::array<GpuCompletion, 1> taken;
    while (transfer.poll(taken) == 0) {
      if (std::chrono::steady_clock::now() > limit) return Errc::busy;
    }
    return taken[0].code;
  }
  void fill(bool device, uint8_t value) {
    if (device) {
      EXPECT_CUDA(cudaMemset(cache_.get(), value, cache_bytes));
    } else {
      std::memset(host_.get(), value, cache_bytes);
    }
    EXPECT_CUDA(cudaDeviceSynchronize());
  }
  // Writes to the side that the batch writes, and sees whether that stays.
  void expect_nobody_writes(GpuDirection direction) {
    const bool device = direction == GpuDirection::load;
    fill(device, 0x5a);
    std::vector<std::byte> seen(cache_bytes);
    ASSERT_CUDA(cudaMemcpy(seen.data(), device ? cache_.get() : host_.get(), cache_bytes, cudaMemcpyDefault));
    EXPECT_TRUE(std::ranges::all_of(seen, [](std::byte byte) { return byte == std::byte{0x5a}; }));
  }

  [[nodiscard]] PagedBatch batch_after(GpuDirection direction, const Event& event) const {
    PagedBatch made = batch(direction);
    made.after = number_of(event);
    return made;
  }

  // A batch behind another, both of which take their time. CUDA refuses a call after so many that put the
  // second one on streams. Returns how many there were.
  int carry(GpuDirection direction, int calls_before_fault, Errc wanted) {
    SCOPED_TRACE("call " + std::to_string(calls_before_fault));
    const auto transfer = open();
    if (transfer == nullptr) return 0;
    fill(direction == GpuDirection::store, 0x11);
    EXPECT_CUDA(launch_slow_fill(aside_.get(), cache_bytes, 0, slow_ms, external_.get()));
    EXPECT_CUDA(launch_slow_fill(aside_.get(), cache_bytes, 0, 2 * slow_ms, later_.get()));
    const Event first = record(external_);
    const Event second = record(later_);
    EXPECT_TRUE(transfer->submit(batch_after(direction, first)));
    const bool faulty = calls_before_fault >= 0;
    fail_cuda_after(faulty ? order_calls + calls_before_fault : -1);
    const auto ticket = transfer->submit(batch_after(direction, second));
    const int calls = cuda_calls() - order_calls;
    fail_cuda_after(-1);
    EXPECT_TRUE(ticket) << "a batch that was put on streams in part is accepted";
    EXPECT_EQ(transfer->failure().empty(), !faulty) << transfer->failure();
    if (faulty && ticket) {
      EXPECT_EQ(transfer->submit(batch(direction)).error().code, Errc::io_error);
    }
    EXPECT_EQ(next_code(*transfer), Errc::ok) << "the first one";
    EXPECT_EQ(next_code(*transfer), wanted);
    expect_nobody_writes(direction);
    std::array<GpuCompletion, 1> taken;
    EXPECT_EQ(transfer->poll(taken), 0U);
    return calls;
  }

  DeviceMemory cache_;
  DeviceMemory aside_;
  Pinned<std::byte> host_;
  Stream external_;
  Stream later_;
  std::vector<int32_t> numbers_;
  std::vector<PagedSegment> segments_;
};

TEST_F(GpuFaults, ABatchThatIsRefusedHalfWayEndsOnceAndWritesNothingLater) {
  const std::vector<PagedSegment> one_run = {{host_.get(), 0, 0, pages}};
  // Of which a chunk has several that are no neighbours.
  std::vector<PagedSegment> runs;
  for (uint32_t page = pages; page > 0; page -= 4) {
    runs.push_back({host_.get() + (page - 4) * page_bytes, 0, page - 4, 4});
  }
  for (const int round : {0, 1, 2, 3}) {
    segments_ = round < 2 ? one_run : runs;
    const GpuDirection direction = round % 2 == 0 ? GpuDirection::load : GpuDirection::store;
    SCOPED_TRACE(direction == GpuDirection::load ? "load" : "store");
    const int calls = carry(direction, -1, Errc::ok);
    ASSERT_GT(calls, 15) << "three chunks, and the waking";
    for (int before = 0; before < calls; ++before) {
      carry(direction, before, before < calls - waking_calls ? Errc::io_error : Errc::ok);
    }
  }
}

// Refused before anything is put on a stream: by the caller's event, as CUDA sees it.
TEST_F(GpuFaults, AnEventThatCannotBeWaitedForRefusesTheBatchAlone) {
  segments_ = {{host_.get(), 0, 0, pages}};
  const auto transfer = open();
  ASSERT_NE(transfer, nullptr);
  ASSERT_CUDA(launch_slow_fill(aside_.get(), cache_bytes, 0, 10 * slow_ms, external_.get()));
  const Event event = record(external_);
  for (int before = 0; before < order_calls; ++before) {
    fail_cuda_after(before);
    const auto refused = transfer->submit(batch_after(GpuDirection::load, event));
    fail_cuda_after(-1);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, Errc::invalid_argument);
  }
  EXPECT_TRUE(transfer->failure().empty());
  EXPECT_TRUE(transfer->submit(batch(GpuDirection::load)));
  EXPECT_EQ(next_code(*transfer), Errc::ok);
}

}  // namespace
}  // namespace kvpool
