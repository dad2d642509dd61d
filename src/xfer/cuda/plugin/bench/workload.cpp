#include "xfer/cuda/plugin/bench/workload.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "base/prng.h"

namespace kvpool {
namespace {

// Numbers 0 to count - 1 in random order, `together` at a time in their own.
std::vector<int32_t> shuffled(uint32_t count, uint32_t together, Prng& random) {
  std::vector<int32_t> starts(count / together);
  for (size_t i = 0; i < starts.size(); ++i) starts[i] = static_cast<int32_t>(i * together);
  for (size_t i = starts.size(); i > 1; --i) std::swap(starts[i - 1], starts[random.below(i)]);
  std::vector<int32_t> numbers;
  numbers.reserve(count);
  for (const int32_t start : starts) {
    for (uint32_t i = 0; i < together; ++i) numbers.push_back(start + static_cast<int32_t>(i));
  }
  return numbers;
}

}  // namespace

Workload::Workload(const CacheShape& shape, uint64_t total_bytes, std::span<std::byte> load_from,
                   std::span<std::byte> store_to, std::byte* device, uint64_t batch_bytes)
    : shape_(shape) {
  uint64_t block_pages = 0;
  for (uint32_t layer = 0; layer < shape_.layers; ++layer) block_pages += pages_of(layer);
  blocks_ = total_bytes / (block_pages * shape_.page_bytes);
  const uint64_t gap_bytes = gaps_bytes / shape_.layers / 4096 * 4096;
  Prng random(20260101);
  for (uint32_t layer = 0; layer < shape_.layers; ++layer) {
    const auto pages = static_cast<uint32_t>(2 * blocks_ * pages_of(layer));
    layers_.push_back({.base = device,
                       .page_stride_bytes = shape_.page_bytes,
                       .pages = pages,
                       .pieces = {{0, shape_.page_bytes}}});
    order_.push_back(shuffled(pages, shape_.runs ? pages_of(layer) : 1, random));
    device += pages * shape_.page_bytes + gap_bytes;
  }
  fill(load_, GpuDirection::load, load_from, batch_bytes);
  fill(store_, GpuDirection::store, store_to, batch_bytes);
}

// Layer after layer, as a load by layers has them.
void Workload::fill(Side& side, GpuDirection direction, std::span<std::byte> host, uint64_t batch_bytes) {
  std::byte* place = host.data();
  std::vector<uint32_t> ends;  // of batches, in segments
  uint64_t bytes = 0;
  for (uint32_t layer = 0; layer < shape_.layers; ++layer) {
    const uint32_t count = pages_of(layer);
    const auto half = direction == GpuDirection::load ? 0 : blocks_ * count;
    for (uint64_t block = 0; block < blocks_; ++block) {
      side.segments.push_back({place, layer, static_cast<uint32_t>(side.pages.size()), count});
      const auto first = order_[layer].begin() + static_cast<int64_t>(half + block * count);
      side.pages.insert(side.pages.end(), first, first + count);
      place += count * shape_.page_bytes;
      bytes += count * shape_.page_bytes;
      if (bytes >= batch_bytes) {
        ends.push_back(static_cast<uint32_t>(side.segments.size()));
        bytes = 0;
      }
    }
  }
  if (bytes > 0) ends.push_back(static_cast<uint32_t>(side.segments.size()));
  uint32_t begin = 0;
  for (const uint32_t end : ends) {
    const auto segments = std::span<const PagedSegment>(side.segments).subspan(begin, end - begin);
    side.batches.push_back({.direction = direction, .segments = segments, .pages = side.pages, .after = {}});
    begin = end;
  }
}

uint64_t Workload::batch_bytes(GpuDirection direction, size_t batch) const {
  const auto& segments = batches(direction)[batch].segments;
  return std::accumulate(segments.begin(), segments.end(), uint64_t{0},
                         [this](uint64_t sum, const PagedSegment& segment) {
                           return sum + segment.pages_count * shape_.page_bytes;
                         });
}

PagedBatch Workload::small(GpuDirection direction, uint32_t segments) const {
  const Side& from = side(direction);
  return {.direction = direction,
          .segments = std::span<const PagedSegment>(from.segments).first(segments),
          .pages = from.pages,
          .after = {}};
}

std::vector<Workload::Sample> Workload::samples(GpuDirection direction, size_t batches, size_t count) const {
  const Side& from = side(direction);
  uint64_t segments = 0;
  for (size_t i = 0; i < batches; ++i) segments += from.batches[i].segments.size();
  Prng random(count);
  std::vector<Sample> samples;
  for (size_t i = 0; i < count; ++i) {
    const PagedSegment& segment = from.segments[random.below(segments)];
    const uint64_t page = random.below(segment.pages_count);
    const auto number = static_cast<uint64_t>(from.pages[segment.pages_first + page]);
    samples.push_back({segment.host + page * shape_.page_bytes,
                       layers_[segment.layer].base + number * layers_[segment.layer].page_stride_bytes});
  }
  return samples;
}

}  // namespace kvpool
