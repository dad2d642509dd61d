// What tests of GpuTransfer share: a paged cache in GPU memory with a copy on the CPU, on which the same
// loads and stores are done byte by byte, and pinned host memory with a copy too. Thread: the test's.
// Failure: the test fails.

#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/prng.h"
#include "xfer/cuda/gpu_transfer.h"
#include "xfer/cuda/plugin/cuda_handles.h"

namespace kvpool {

#define ASSERT_CUDA(call) ASSERT_EQ((call), cudaSuccess)
#define EXPECT_CUDA(call) EXPECT_EQ((call), cudaSuccess)

// How odd a cache may be.
enum class Oddness : uint8_t {
  aligned,  // all addresses and lengths are multiples of 16
  odd,      // any
};

class PagedCache {
 public:
  static constexpr uint64_t host_bytes = 64 << 20;

  PagedCache(uint64_t seed, Oddness oddness);
  [[nodiscard]] const std::vector<PagedLayer>& layers() const { return layers_; }
  [[nodiscard]] std::span<std::byte> host() { return {host_.get(), host_bytes}; }
  [[nodiscard]] std::byte* device() const { return device_.get(); }

  struct Batch {
    std::vector<PagedSegment> segments;
    std::vector<int32_t> pages;
    [[nodiscard]] PagedBatch view(GpuDirection direction) const {
      return {.direction = direction, .segments = segments, .pages = pages, .after = {}};
    }
  };
  // Segments on pages and in host memory that no batch before had, some without all pages. Empty: no pages
  // are left; recycle() begins anew.
  [[nodiscard]] Batch next(uint32_t segments_max);
  void recycle();
  // Does on the copies what the transfer does.
  void apply(GpuDirection direction, const Batch& batch);
  // Compares all bytes.
  void expect_same();

 private:
  void make_layers(Oddness oddness);

  Prng random_;
  Oddness oddness_;
  std::vector<PagedLayer> layers_;
  uint64_t device_bytes_ = 0;
  DeviceMemory device_;
  Pinned<std::byte> host_;
  std::vector<std::byte> device_copy_;
  std::vector<std::byte> host_copy_;
  std::vector<std::vector<int32_t>> free_pages_;
  uint64_t host_used_bytes_ = 0;
};

[[nodiscard]] std::unique_ptr<GpuTransfer> open_transfer(const GpuOptions& options, PagedCache& cache);
[[nodiscard]] Stream make_external();
// An event behind what is on that stream now, and its number.
[[nodiscard]] Event record(const Stream& stream);
[[nodiscard]] ExternalEvent number_of(const Event& event);

// Takes `count` completions, all of which must be good, in order within each direction.
void expect_completions(GpuTransfer& transfer, size_t count);

}  // namespace kvpool
