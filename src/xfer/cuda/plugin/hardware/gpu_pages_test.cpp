#include <algorithm>
#include <string>

#include "xfer/cuda/plugin/cuda_transfer.h"
#include "xfer/cuda/plugin/hardware/gpu_fixture.h"

namespace kvpool {
namespace {

// A ring of few chunks, so that batches go round it.
GpuOptions options() {
  return {.batches_max = 8, .staging_bytes = 4 << 20, .give_way_bytes = 1 << 20};  // in every batch
}

// One batch at a time, of one direction.
void carry(uint64_t seed, Oddness oddness) {
  SCOPED_TRACE("seed " + std::to_string(seed));
  PagedCache cache(seed, oddness);
  const auto transfer = open_transfer(options(), cache);
  ASSERT_NE(transfer, nullptr);
  Prng random(seed);
  for (int i = 0; i < 6; ++i) {
    const GpuDirection direction = random.chance(0.5) ? GpuDirection::load : GpuDirection::store;
    const PagedCache::Batch batch = cache.next(20);
    cache.apply(direction, batch);
    const auto ticket = transfer->submit(batch.view(direction));
    ASSERT_TRUE(ticket) << ticket.error().message;
    expect_completions(*transfer, 1);
  }
  cache.expect_same();
}

TEST(GpuPages, OfAlignedLayoutsArriveWhole) {
  for (uint64_t seed = 1; seed <= 8; ++seed) carry(seed, Oddness::aligned);
}

TEST(GpuPages, OfOddLayoutsArriveWhole) {
  for (uint64_t seed = 100; seed < 112; ++seed) carry(seed, Oddness::odd);
}

TEST(GpuPages, GoBothWaysAtOnceInManyBatches) {
  for (const Oddness oddness : {Oddness::aligned, Oddness::odd}) {
    PagedCache cache(7, oddness);
    const auto transfer = open_transfer(options(), cache);
    ASSERT_NE(transfer, nullptr);
    for (int round = 0; round < 10; ++round) {
      cache.recycle();
      size_t submitted = 0;
      for (int i = 0; i < 16; ++i) {
        const GpuDirection direction = i % 2 == 0 ? GpuDirection::load : GpuDirection::store;
        const PagedCache::Batch batch = cache.next(8);  // may be empty
        cache.apply(direction, batch);
        const auto ticket = transfer->submit(batch.view(direction));
        ASSERT_TRUE(ticket) << ticket.error().message;
        ++submitted;
      }
      expect_completions(*transfer, submitted);
    }
    cache.expect_same();
  }
}

// Whole large segments, as an engine's: pages of 64 KiB, next to each other and not.
TEST(GpuPages, OfAnEnginesSizeArriveWhole) {
  constexpr uint64_t page_bytes = 64 << 10;
  constexpr uint32_t pages = 256;
  DeviceMemory device;
  Pinned<std::byte> host;
  ASSERT_TRUE(make_device_memory(device, pages * page_bytes));
  ASSERT_TRUE(make_pinned(host, 2 * pages * page_bytes));
  const auto words = std::span(reinterpret_cast<uint64_t*>(host.get()), 2 * pages * page_bytes / 8);
  for (size_t i = 0; i < words.size() / 2; ++i) words[i] = mix64(i);
  auto opened = CudaTransfer::open(options());
  ASSERT_TRUE(opened) << opened.error().message;
  GpuTransfer& transfer = **opened;
  ASSERT_TRUE(transfer.register_host({host.get(), 2 * pages * page_bytes}));
  ASSERT_TRUE(transfer.set_layers({{.base = device.get(),
                                    .page_stride_bytes = page_bytes,
                                    .pages = pages,
                                    .pieces = {{0, page_bytes}}}}));
  for (const bool mixed : {false, true}) {
    std::vector<int32_t> numbers(pages);
    for (uint32_t i = 0; i < pages; ++i) numbers[i] = static_cast<int32_t>(mixed ? i * 77 % pages : i);
    const std::vector<PagedSegment> from = {{host.get(), 0, 0, pages}};
    const std::vector<PagedSegment> to = {{host.get() + pages * page_bytes, 0, 0, pages}};
    ASSERT_CUDA(cudaMemset(device.get(), 0, pages * page_bytes));
    ASSERT_TRUE(transfer.submit({.direction = GpuDirection::load, .segments = from, .pages = numbers}));
    expect_completions(transfer, 1);
    ASSERT_TRUE(transfer.submit({.direction = GpuDirection::store, .segments = to, .pages = numbers}));
    expect_completions(transfer, 1);
    EXPECT_TRUE(std::ranges::equal(words.first(words.size() / 2), words.last(words.size() / 2)));
    std::ranges::fill(words.last(words.size() / 2), uint64_t{0});
  }
  opened->reset();
}

bool is_registered(const std::byte* place) {
  cudaPointerAttributes attributes{};
  EXPECT_CUDA(cudaPointerGetAttributes(&attributes, place));
  return attributes.type == cudaMemoryTypeHost;
}

// Two transfers over one region, and one over a part of it: whoever has registered it closes first.
TEST(GpuPages, ArriveAfterAnotherTransferOverTheirMemoryIsClosed) {
  constexpr uint64_t page_bytes = 64 << 10;
  constexpr uint32_t pages = 64;
  DeviceMemory device;
  ASSERT_TRUE(make_device_memory(device, pages * page_bytes));
  std::vector<std::byte> memory(2 * pages * page_bytes);
  const auto [from, to] =
      std::pair(std::span(memory).first(memory.size() / 2), std::span(memory).last(memory.size() / 2));
  std::vector<int32_t> numbers(pages);
  for (uint32_t i = 0; i < pages; ++i) numbers[i] = static_cast<int32_t>(i * 7 % pages);
  std::vector<std::unique_ptr<GpuTransfer>> transfers;
  for (const std::span<std::byte> region : {std::span(memory), std::span(memory), to}) {
    auto opened = CudaTransfer::open(options());
    ASSERT_TRUE(opened) << opened.error().message;
    ASSERT_TRUE((*opened)->register_host(region));
    ASSERT_TRUE((*opened)->set_layers({{.base = device.get(),
                                        .page_stride_bytes = page_bytes,
                                        .pages = pages,
                                        .pieces = {{0, page_bytes}}}}));
    transfers.push_back(std::move(*opened));
  }
  const auto carry = [&](GpuTransfer& transfer, GpuDirection direction, std::span<std::byte> host) {
    const std::vector<PagedSegment> segments = {{host.data(), 0, 0, pages}};
    EXPECT_TRUE(transfer.submit({.direction = direction, .segments = segments, .pages = numbers}));
    expect_completions(transfer, 1);
  };
  transfers[0].reset();
  EXPECT_TRUE(is_registered(from.data()));
  std::ranges::fill(from, std::byte{0x31});
  carry(*transfers[1], GpuDirection::load, from);
  transfers[1].reset();
  EXPECT_TRUE(is_registered(to.data()));
  carry(*transfers[2], GpuDirection::store, to);
  EXPECT_TRUE(std::ranges::equal(from, to));
  transfers[2].reset();
  EXPECT_FALSE(is_registered(to.data()));
}

}  // namespace
}  // namespace kvpool
