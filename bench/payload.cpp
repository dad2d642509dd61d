#include "bench/payload.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/prng.h"

namespace kvpool::bench {
namespace {

constexpr size_t page_words = payload_page_bytes / sizeof(uint64_t);
constexpr uint64_t step = 0x9e3779b97f4a7c15ULL;  // odd: the counter meets every value before it repeats

using Page = std::array<uint64_t, page_words>;
using Stamp = std::array<uint64_t, 3>;

struct Source {
  uint64_t key_hash;
  uint64_t segment;
  uint64_t start;

  Source(const BlockKey& key, uint32_t segment_number)
      : key_hash(mix64(key.high + mix64(key.low + step))),
        segment(segment_number),
        start(mix64(key_hash + mix64(segment + step))) {}

  [[nodiscard]] Stamp stamp(uint64_t offset) const { return {key_hash, segment, offset}; }

  // The page that begins `offset` bytes into the segment. A page stays in the first-level cache, so making it
  // there and copying or comparing it costs no memory traffic of its own.
  void make(uint64_t offset, Page& page) const {
    const uint64_t first = start + offset / sizeof(uint64_t) * step;
    for (size_t i = 0; i < page_words; ++i) {
      const uint64_t word = first + i * step;
      page[i] = word ^ (word >> 32);
    }
    const Stamp head = stamp(offset);
    std::copy(head.begin(), head.end(), page.begin());
  }
};

}  // namespace

void fill_payload(std::span<std::byte> out, const BlockKey& key, uint32_t segment) {
  const Source source(key, segment);
  Page page;
  for (uint64_t offset = 0; offset < out.size(); offset += payload_page_bytes) {
    source.make(offset, page);
    std::memcpy(out.data() + offset, page.data(), std::min(payload_page_bytes, out.size() - offset));
  }
}

bool payload_stamps_match(std::span<const std::byte> bytes, const BlockKey& key, uint32_t segment) {
  const Source source(key, segment);
  for (uint64_t offset = 0; offset < bytes.size(); offset += payload_page_bytes) {
    const Stamp stamp = source.stamp(offset);
    const size_t length = std::min<uint64_t>(sizeof stamp, bytes.size() - offset);
    if (std::memcmp(bytes.data() + offset, stamp.data(), length) != 0) return false;
  }
  return true;
}

bool payload_equals(std::span<const std::byte> bytes, const BlockKey& key, uint32_t segment) {
  const Source source(key, segment);
  Page page;
  for (uint64_t offset = 0; offset < bytes.size(); offset += payload_page_bytes) {
    source.make(offset, page);
    const size_t length = std::min(payload_page_bytes, bytes.size() - offset);
    if (std::memcmp(bytes.data() + offset, page.data(), length) != 0) return false;
  }
  return true;
}

}  // namespace kvpool::bench
