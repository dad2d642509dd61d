#include <poll.h>

#include <array>
#include <chrono>
#include <cstring>

#include "xfer/cuda/plugin/cuda_transfer.h"
#include "xfer/cuda/plugin/hardware/gpu_fixture.h"
#include "xfer/cuda/plugin/hardware/test_kernels.h"
#include "xfer/cuda/plugin/hardware/test_log.h"

namespace kvpool {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t page_bytes = 32 << 10;
constexpr uint32_t pages = 64;
constexpr uint64_t cache_bytes = page_bytes * pages;
constexpr uint64_t slow_ms = 100;

class GpuOrder : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(make_device_memory(cache_, cache_bytes));
    ASSERT_TRUE(make_device_memory(aside_, cache_bytes));
    ASSERT_TRUE(make_pinned(host_, cache_bytes));
    external_ = make_external();
    auto opened = CudaTransfer::open({.batches_max = 2, .staging_bytes = 4 << 20, .give_way_bytes = 1 << 20});
    ASSERT_TRUE(opened) << opened.error().message;
    transfer_ = std::move(*opened);
    ASSERT_TRUE(transfer_->register_host({host_.get(), cache_bytes}));
    ASSERT_TRUE(transfer_->set_layers({{.base = cache_.get(),
                                        .page_stride_bytes = page_bytes,
                                        .pages = pages,
                                        .pieces = {{0, page_bytes}}}}));
    for (uint32_t i = 0; i < pages; ++i) numbers_.push_back(static_cast<int32_t>(i * 37 % pages));
    segments_ = {{host_.get(), 0, 0, pages / 2}, {host_.get() + cache_bytes / 2, 0, pages / 2, pages / 2}};
    // Kernels that are launched for the first time would wait for what is under way.
    warm_up();
  }

  void warm_up() {
    std::memset(host_.get(), 0, cache_bytes);
    for (const GpuDirection direction : {GpuDirection::load, GpuDirection::store}) {
      ASSERT_TRUE(transfer_->submit(batch(direction)));
      expect_completions(*transfer_, 1);
    }
    ASSERT_CUDA(launch_slow_fill(aside_.get(), cache_bytes, 0, 0, external_.get()));
    ASSERT_CUDA(cudaStreamSynchronize(external_.get()));
  }

  [[nodiscard]] PagedBatch batch(GpuDirection direction) const {
    return {.direction = direction, .segments = segments_, .pages = numbers_, .after = {}};
  }
  [[nodiscard]] PagedBatch batch_after(GpuDirection direction) { return batch_after(direction, external_); }
  // Behind what is on that stream now.
  [[nodiscard]] PagedBatch batch_after(GpuDirection direction, const Stream& stream) {
    events_.push_back(record(stream));
    PagedBatch made = batch(direction);
    made.after = number_of(events_.back());
    return made;
  }
  void expect_all(const std::byte* memory, uint8_t value) const {
    for (uint64_t i = 0; i < cache_bytes; ++i) ASSERT_EQ(memory[i], std::byte{value}) << "at " << i;
  }
  void expect_device(const DeviceMemory& memory, uint8_t value) const {
    std::vector<std::byte> seen(cache_bytes);
    ASSERT_CUDA(cudaMemcpy(seen.data(), memory.get(), cache_bytes, cudaMemcpyDeviceToHost));
    expect_all(seen.data(), value);
  }
  void put_aside() {
    ASSERT_CUDA(
        cudaMemcpyAsync(aside_.get(), cache_.get(), cache_bytes, cudaMemcpyDeviceToDevice, external_.get()));
  }

  DeviceMemory cache_;
  DeviceMemory aside_;
  Pinned<std::byte> host_;
  Stream external_;
  std::vector<int32_t> numbers_;
  std::vector<PagedSegment> segments_;
  std::vector<Event> events_;
  std::unique_ptr<GpuTransfer> transfer_;  // closed first
};

TEST_F(GpuOrder, AStoreSeesWhatAnExternalStreamWritesBefore) {
  ASSERT_CUDA(launch_slow_fill(cache_.get(), cache_bytes, 0x5a, slow_ms, external_.get()));
  const auto start = Clock::now();
  ASSERT_TRUE(transfer_->submit(batch_after(GpuDirection::store)));
  // Nobody has waited here. The limit leaves room for a slow machine.
  EXPECT_LT(Clock::now() - start, std::chrono::milliseconds(slow_ms / 2));
  expect_completions(*transfer_, 1);
  expect_all(host_.get(), 0x5a);
}

TEST_F(GpuOrder, ABatchDoesNotWaitForWhatComesAfterItsEvent) {
  ASSERT_CUDA(launch_slow_fill(cache_.get(), cache_bytes, 0x5b, slow_ms / 10, external_.get()));
  const PagedBatch store = batch_after(GpuDirection::store);
  Pinned<uint32_t> open;
  ASSERT_TRUE(make_pinned(open, 1));
  *open = 0;
  ASSERT_CUDA(launch_gate(open.get(), external_.get()));
  ASSERT_TRUE(transfer_->submit(store));
  expect_completions(*transfer_, 1);
  EXPECT_EQ(cudaStreamQuery(external_.get()), cudaErrorNotReady);
  (void)cudaGetLastError();
  __atomic_store_n(open.get(), 1, __ATOMIC_RELEASE);
  ASSERT_CUDA(cudaStreamSynchronize(external_.get()));
  expect_all(host_.get(), 0x5b);
  // An event may go as soon as the batch that names it is submitted, and be over by then.
  const PagedBatch another = batch_after(GpuDirection::store);
  ASSERT_CUDA(cudaStreamSynchronize(external_.get()));
  ASSERT_TRUE(transfer_->submit(another));
  events_.clear();
  expect_completions(*transfer_, 1);
}

TEST_F(GpuOrder, ALoadDoesNotBeginBeforeAnExternalStreamIsThere) {
  ASSERT_CUDA(cudaMemset(cache_.get(), 0x11, cache_bytes));
  ASSERT_CUDA(cudaDeviceSynchronize());
  std::memset(host_.get(), 0x22, cache_bytes);
  ASSERT_CUDA(launch_slow_fill(aside_.get(), cache_bytes, 0, slow_ms, external_.get()));
  put_aside();
  ASSERT_TRUE(transfer_->submit(batch_after(GpuDirection::load)));
  expect_completions(*transfer_, 1);
  ASSERT_CUDA(cudaStreamSynchronize(external_.get()));
  expect_device(aside_, 0x11);
  expect_device(cache_, 0x22);
}

// The event that a load waits for says afterwards that it has come.
TEST_F(GpuOrder, AnEventIsRecordedBehindLoads) {
  std::memset(host_.get(), 0x33, cache_bytes);
  const Stream gate = make_external();
  ASSERT_CUDA(launch_slow_fill(aside_.get(), cache_bytes, 0, slow_ms, gate.get()));
  ASSERT_TRUE(transfer_->submit(batch_after(GpuDirection::load, gate)));
  ASSERT_TRUE(transfer_->record(GpuDirection::load, number_of(events_.back())));
  EXPECT_EQ(cudaEventQuery(events_.back().get()), cudaErrorNotReady);
  (void)cudaGetLastError();
  ASSERT_CUDA(cudaStreamWaitEvent(external_.get(), events_.back().get(), 0));
  put_aside();
  ASSERT_CUDA(cudaStreamSynchronize(external_.get()));
  expect_device(aside_, 0x33);
  expect_completions(*transfer_, 1);
}

TEST_F(GpuOrder, AFullQueueIsBusyAndNobodyWaits) {
  ASSERT_CUDA(launch_slow_fill(cache_.get(), cache_bytes, 0x66, 3 * slow_ms, external_.get()));
  const auto start = Clock::now();
  ASSERT_TRUE(transfer_->submit(batch_after(GpuDirection::store)));
  ASSERT_TRUE(transfer_->submit(batch(GpuDirection::store)));
  const auto refused = transfer_->submit(batch(GpuDirection::store));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Errc::busy);
  const Status set = transfer_->set_layers({});
  ASSERT_FALSE(set);
  EXPECT_EQ(set.error().code, Errc::busy);
  std::array<GpuCompletion, 4> taken;
  EXPECT_EQ(transfer_->poll(taken), 0U);
  EXPECT_LT(Clock::now() - start, std::chrono::milliseconds(2 * slow_ms));
  expect_completions(*transfer_, 2);
  expect_all(host_.get(), 0x66);
  EXPECT_TRUE(transfer_->submit(batch(GpuDirection::store)));
  expect_completions(*transfer_, 1);
}

TEST_F(GpuOrder, ASleeperIsWoken) {
  ASSERT_CUDA(launch_slow_fill(cache_.get(), cache_bytes, 0x77, slow_ms, external_.get()));
  ASSERT_TRUE(transfer_->submit(batch_after(GpuDirection::store)));
  transfer_->prepare_wait();
  std::array<GpuCompletion, 4> taken;
  ASSERT_EQ(transfer_->poll(taken), 0U) << "too fast for this test";
  pollfd descriptor{.fd = transfer_->event_fd(), .events = POLLIN, .revents = 0};
  EXPECT_EQ(::poll(&descriptor, 1, 10'000), 1);
  transfer_->done_wait();
  EXPECT_EQ(transfer_->poll(taken), 1U);
  EXPECT_EQ(::poll(&descriptor, 1, 0), 0) << "it was emptied";
}

// An engine's copies behind the first batch do not wait for the sixteenth. The times are the GPU's.
TEST_F(GpuOrder, OthersCopiesComeBeforeALoadHasEnded) {
  constexpr size_t batches = 16;
  constexpr uint64_t other_bytes = 512 << 10;
  auto opened = CudaTransfer::open({.batches_max = batches});
  ASSERT_TRUE(opened);
  GpuTransfer& transfer = **opened;
  ASSERT_TRUE(transfer.register_host({host_.get(), cache_bytes}));
  ASSERT_TRUE(transfer.set_layers({{.base = cache_.get(),
                                    .page_stride_bytes = page_bytes,
                                    .pages = pages,
                                    .pieces = {{0, page_bytes}}}}));
  PagedBatch load = batch(GpuDirection::load);  // 32 MiB: the same bytes to the same pages, many times
  std::vector<PagedSegment> segments;
  std::vector<int32_t> numbers;
  for (int i = 0; i < 16; ++i) {
    for (PagedSegment segment : segments_) {
      segment.pages_first += static_cast<uint32_t>(numbers.size());
      segments.push_back(segment);
    }
    numbers.insert(numbers.end(), numbers_.begin(), numbers_.end());
  }
  load.segments = segments;
  load.pages = numbers;
  Pinned<std::byte> from;
  ASSERT_TRUE(make_pinned(from, other_bytes));
  const Stream other = make_external();
  Event first;
  Event last;
  Event copied;
  for (Event* event : {&first, &last, &copied}) {
    cudaEvent_t made = nullptr;
    ASSERT_CUDA(cudaEventCreate(&made));
    event->reset(made);
  }
  Pinned<uint32_t> open;
  ASSERT_TRUE(make_pinned(open, 1));
  *open = 0;
  ASSERT_CUDA(launch_gate(open.get(), external_.get()));
  events_.push_back(record(external_));
  load.after = number_of(events_.back());
  for (size_t i = 0; i < batches; ++i) {
    ASSERT_TRUE(transfer.submit(load));
    if (i > 0) continue;
    ASSERT_TRUE(transfer.record(GpuDirection::load, number_of(first)));
  }
  ASSERT_TRUE(transfer.record(GpuDirection::load, number_of(last)));
  ASSERT_CUDA(cudaStreamWaitEvent(other.get(), first.get(), 0));
  ASSERT_CUDA(cudaMemcpyAsync(aside_.get(), from.get(), other_bytes, cudaMemcpyHostToDevice, other.get()));
  ASSERT_CUDA(cudaEventRecord(copied.get(), other.get()));
  __atomic_store_n(open.get(), 1, __ATOMIC_RELEASE);
  expect_completions(transfer, batches);
  ASSERT_CUDA(cudaDeviceSynchronize());
  float waited_ms = 0;
  float load_ms = 0;
  ASSERT_CUDA(cudaEventElapsedTime(&waited_ms, first.get(), copied.get()));
  ASSERT_CUDA(cudaEventElapsedTime(&load_ms, first.get(), last.get()));
  EXPECT_LT(waited_ms, load_ms / 2);
}

// What never begins is left behind, and does no harm when it begins after all.
TEST_F(GpuOrder, ClosingWaitsNoLongerThanItIsTold) {
  Pinned<uint32_t> open;
  ASSERT_TRUE(make_pinned(open, 1));
  *open = 0;
  auto opened = CudaTransfer::open({.staging_bytes = 4 << 20, .close_wait_ms_max = 100});
  ASSERT_TRUE(opened);
  ASSERT_TRUE((*opened)->register_host({host_.get(), cache_bytes}));
  ASSERT_TRUE((*opened)->set_layers({{.base = cache_.get(),
                                      .page_stride_bytes = page_bytes,
                                      .pages = pages,
                                      .pieces = {{0, page_bytes}}}}));
  ASSERT_CUDA(cudaMemset(cache_.get(), 0x79, cache_bytes));
  ASSERT_CUDA(cudaDeviceSynchronize());
  (void)take_log();
  ASSERT_CUDA(launch_gate(open.get(), external_.get()));
  EXPECT_TRUE((*opened)->submit(batch_after(GpuDirection::store)));
  const auto start = Clock::now();
  opened->reset();
  const auto waited = Clock::now() - start;
  __atomic_store_n(open.get(), 1, __ATOMIC_RELEASE);
  EXPECT_GE(waited, std::chrono::milliseconds(100));
  EXPECT_LT(waited, std::chrono::seconds(5));
  EXPECT_NE(take_log().find("left behind"), std::string::npos);
  ASSERT_CUDA(cudaDeviceSynchronize());
  expect_all(host_.get(), 0x79);
}

TEST_F(GpuOrder, ClosingWaitsForWhatIsUnderWay) {
  ASSERT_CUDA(launch_slow_fill(cache_.get(), cache_bytes, 0x78, slow_ms, external_.get()));
  ASSERT_TRUE(transfer_->submit(batch_after(GpuDirection::store)));
  transfer_.reset();
  expect_all(host_.get(), 0x78);
}

}  // namespace
}  // namespace kvpool
