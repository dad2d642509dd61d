#include "xfer/cuda/plugin/hardware/gpu_fixture.h"

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cstring>
#include <utility>

#include "xfer/cuda/plugin/cuda_transfer.h"

namespace kvpool {
namespace {

void fill(std::vector<std::byte>& bytes, Prng& random) {
  for (size_t i = 0; i + 8 <= bytes.size(); i += 8) {
    const uint64_t word = random.next();
    std::memcpy(&bytes[i], &word, 8);
  }
}

}  // namespace

PagedCache::PagedCache(uint64_t seed, Oddness oddness) : random_(seed), oddness_(oddness) {
  make_layers(oddness);
  EXPECT_TRUE(make_device_memory(device_, device_bytes_));
  EXPECT_TRUE(make_pinned(host_, host_bytes));
  for (PagedLayer& layer : layers_) layer.base = device_.get() + reinterpret_cast<uint64_t>(layer.base);
  device_copy_.resize(device_bytes_);
  host_copy_.resize(host_bytes);
  fill(device_copy_, random_);
  fill(host_copy_, random_);
  EXPECT_CUDA(cudaMemcpy(device_.get(), device_copy_.data(), device_bytes_, cudaMemcpyHostToDevice));
  std::memcpy(host_.get(), host_copy_.data(), host_bytes);
  recycle();
}

// Bases are offsets here.
void PagedCache::make_layers(Oddness oddness) {
  const uint64_t unit = oddness == Oddness::aligned ? 16 : 1;
  const auto layers = random_.between(1, 6);
  uint64_t base = 0;
  for (uint64_t i = 0; i < layers; ++i) {
    PagedLayer layer;
    uint64_t offset = random_.below(3) * unit;
    const uint64_t pieces = random_.between(1, 4);
    for (uint64_t piece = 0; piece < pieces; ++piece) {
      // Small, one kernel step and a little, several steps, more than a piece of the kernel.
      constexpr std::array<uint64_t, 4> bytes_max = {64, 5000, 20000, 100000};
      const uint64_t length = random_.between(1, bytes_max[random_.below(4)] / unit) * unit;
      layer.pieces.push_back({offset, length});
      offset += length + random_.below(4) * unit;
    }
    layer.page_stride_bytes = offset + random_.below(5) * unit;
    layer.pages = static_cast<uint32_t>(random_.between(8, 64));
    base += random_.below(100) * unit;
    layer.base = std::bit_cast<std::byte*>(base);
    base += layer.extent_bytes();
    base = (base + unit - 1) / unit * unit;
    layers_.push_back(std::move(layer));
  }
  device_bytes_ = base + 64;
}

void PagedCache::recycle() {
  free_pages_.assign(layers_.size(), {});
  for (size_t i = 0; i < layers_.size(); ++i) {
    for (uint32_t page = layers_[i].pages; page > 0; --page) {
      free_pages_[i].push_back(static_cast<int32_t>(page - 1));
    }
    // They are taken from the end. Often neighbours, often not.
    if (random_.chance(0.3)) continue;
    for (size_t k = free_pages_[i].size(); k > 1; --k) {
      std::swap(free_pages_[i][k - 1], free_pages_[i][random_.below(k)]);
    }
  }
  host_used_bytes_ = 0;
}

PagedCache::Batch PagedCache::next(uint32_t segments_max) {
  const uint64_t unit = oddness_ == Oddness::aligned ? 16 : 1;
  Batch batch;
  const uint64_t count = random_.between(1, segments_max);
  for (uint64_t i = 0; i < count; ++i) {
    const auto layer = static_cast<uint32_t>(random_.below(layers_.size()));
    std::vector<int32_t>& free = free_pages_[layer];
    const auto first = static_cast<uint32_t>(batch.pages.size());
    const uint64_t wanted = random_.between(1, 16);
    const uint64_t bytes = wanted * layers_[layer].page_bytes();
    // Neighbours in host memory, often.
    const uint64_t gap = random_.chance(0.5) ? 0 : random_.below(50) * unit;
    if (free.size() < wanted || host_used_bytes_ + gap + bytes > host_bytes) continue;
    for (uint64_t page = 0; page < wanted; ++page) {
      if (random_.chance(0.1)) {
        batch.pages.push_back(-1);
      } else {
        batch.pages.push_back(free.back());
        free.pop_back();
      }
    }
    batch.segments.push_back(
        {host_.get() + host_used_bytes_ + gap, layer, first, static_cast<uint32_t>(wanted)});
    host_used_bytes_ += gap + bytes;
  }
  return batch;
}

void PagedCache::apply(GpuDirection direction, const Batch& batch) {
  for (const PagedSegment& segment : batch.segments) {
    const PagedLayer& layer = layers_[segment.layer];
    std::byte* host = host_copy_.data() + (segment.host - host_.get());
    std::byte* const base = device_copy_.data() + (layer.base - device_.get());
    for (uint32_t i = 0; i < segment.pages_count; ++i) {
      const int32_t number = batch.pages[segment.pages_first + i];
      for (const PagedPiece& piece : layer.pieces) {
        std::byte* const page =
            base + static_cast<uint64_t>(number) * layer.page_stride_bytes + piece.offset_bytes;
        if (number >= 0 && direction == GpuDirection::load) std::memcpy(page, host, piece.length_bytes);
        if (number >= 0 && direction == GpuDirection::store) std::memcpy(host, page, piece.length_bytes);
        host += piece.length_bytes;
      }
    }
  }
}

void PagedCache::expect_same() {
  std::vector<std::byte> seen(device_bytes_);
  ASSERT_CUDA(cudaMemcpy(seen.data(), device_.get(), device_bytes_, cudaMemcpyDeviceToHost));
  const auto device = std::ranges::mismatch(seen, device_copy_);
  EXPECT_EQ(device.in1, seen.end()) << "GPU memory differs at " << device.in1 - seen.begin();
  const auto host = std::ranges::mismatch(this->host(), host_copy_);
  EXPECT_EQ(host.in1, this->host().end()) << "host memory differs at " << host.in1 - this->host().begin();
}

std::unique_ptr<GpuTransfer> open_transfer(const GpuOptions& options, PagedCache& cache) {
  auto opened = CudaTransfer::open(options);
  if (!opened) {
    ADD_FAILURE() << opened.error().message;
    return nullptr;
  }
  const Status registered = (*opened)->register_host(cache.host());
  EXPECT_TRUE(registered) << registered.error().message;
  const Status set = (*opened)->set_layers(cache.layers());
  EXPECT_TRUE(set) << set.error().message;
  return std::move(*opened);
}

Stream make_external() {
  cudaStream_t stream = nullptr;
  EXPECT_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  return Stream(stream);
}

Event record(const Stream& stream) {
  Event event;
  EXPECT_TRUE(make_event(event));
  EXPECT_CUDA(cudaEventRecord(event.get(), stream.get()));
  return event;
}

ExternalEvent number_of(const Event& event) { return {reinterpret_cast<uintptr_t>(event.get())}; }

void expect_completions(GpuTransfer& transfer, size_t count) {
  std::array<uint64_t, 2> next{};
  std::array<bool, 2> seen{};
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  for (size_t done = 0; done < count;) {
    ASSERT_LT(std::chrono::steady_clock::now(), limit) << done << " of " << count << " completions";
    std::array<GpuCompletion, 3> taken;
    const size_t now = transfer.poll(taken);
    for (size_t i = 0; i < now; ++i) {
      ASSERT_EQ(taken[i].code, Errc::ok) << transfer.failure();
      const auto way = static_cast<size_t>(taken[i].ticket.direction);
      EXPECT_TRUE(!seen[way] || taken[i].ticket.number == next[way]) << taken[i].ticket.number;
      seen[way] = true;
      next[way] = taken[i].ticket.number + 1;
    }
    done += now;
  }
}

}  // namespace kvpool
