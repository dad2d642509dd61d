// A paged cache of some shape in one block of GPU memory, and batches that carry all of a host area to it and
// from it. Loads and stores have pages of their own, at random places.
//
// Thread: one. Failure: none; the caller has the memory.

#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "xfer/cuda/gpu_transfer.h"

namespace kvpool {

struct CacheShape {
  std::string name;
  uint32_t layers = 0;
  uint64_t page_bytes = 0;
  // Pages of a segment; layers take turns.
  std::vector<uint32_t> segment_pages;
  bool runs = false;  // the pages of a segment are neighbours
};

class Workload {
 public:
  // REQUIRES: `device` has 2 * total_bytes and room for gaps (block_bytes()).
  Workload(const CacheShape& shape, uint64_t total_bytes, std::span<std::byte> load_from,
           std::span<std::byte> store_to, std::byte* device, uint64_t batch_bytes);

  [[nodiscard]] static uint64_t block_bytes(uint64_t total_bytes) { return 2 * total_bytes + gaps_bytes; }

  [[nodiscard]] const CacheShape& shape() const { return shape_; }
  [[nodiscard]] const std::vector<PagedLayer>& layers() const { return layers_; }
  [[nodiscard]] const std::vector<PagedBatch>& batches(GpuDirection direction) const {
    return side(direction).batches;
  }
  [[nodiscard]] uint64_t batch_bytes(GpuDirection direction, size_t batch) const;
  // The first segments of a direction as one batch.
  [[nodiscard]] PagedBatch small(GpuDirection direction, uint32_t segments) const;

  // A page in host memory and its place in GPU memory.
  struct Sample {
    std::byte* host = nullptr;
    std::byte* device = nullptr;
  };
  [[nodiscard]] std::vector<Sample> samples(GpuDirection direction, size_t batches, size_t count) const;

 private:
  static constexpr uint64_t gaps_bytes = 256 << 20;

  struct Side {
    std::vector<PagedSegment> segments;
    std::vector<int32_t> pages;
    std::vector<PagedBatch> batches;
  };

  [[nodiscard]] const Side& side(GpuDirection direction) const {
    return direction == GpuDirection::load ? load_ : store_;
  }
  [[nodiscard]] uint32_t pages_of(uint32_t layer) const {
    return shape_.segment_pages[layer % shape_.segment_pages.size()];
  }
  void fill(Side& side, GpuDirection direction, std::span<std::byte> host, uint64_t batch_bytes);

  CacheShape shape_;
  uint64_t blocks_ = 0;  // of KV cache, each with a segment of every layer
  std::vector<PagedLayer> layers_;
  std::vector<std::vector<int32_t>> order_;  // of the pages of each layer
  Side load_;
  Side store_;
};

}  // namespace kvpool
