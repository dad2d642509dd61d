#include "connectors/lmcache/lengths.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <utility>

namespace kvpool::lmcache {
namespace {

constexpr uint64_t segments_max = 128;
constexpr size_t refused_max = 64;

// In the order in which they are tried: the best for drives first, larger ones for values of more than 128
// MiB, smaller ones for a pool with little staging.
constexpr std::array<uint32_t, 15> segment_sizes = {1U << 20, 1U << 21, 1U << 22, 1U << 23, 1U << 24,
                                                    1U << 25, 1U << 26, 1U << 27, 1U << 28, 1U << 29,
                                                    1U << 30, 1U << 19, 1U << 18, 1U << 17, 1U << 16};

}  // namespace

const Length* Lengths::find(uint64_t bytes) const {
  const auto found =
      std::ranges::find_if(lengths_, [&](const auto& length) { return length->bytes == bytes; });
  return found == lengths_.end() ? nullptr : found->get();
}

const Length* Lengths::open(uint64_t bytes, std::string& why) {
  if (const Length* known = find(bytes)) return known;
  const auto refused =
      std::ranges::find_if(refused_, [&](const Refused& each) { return each.bytes == bytes; });
  if (refused != refused_.end()) {
    why = refused->why;
    return nullptr;
  }
  if (lengths_.size() >= most_) {
    why = "values have more than " + std::to_string(most_) +
          " different lengths; those of further lengths (" + std::to_string(bytes) +
          " bytes) are not stored: set a larger lengths_max";
    if (!std::exchange(full_, true)) std::fprintf(stderr, "kvpool warning: lmcache: %s\n", why.c_str());
    return nullptr;
  }
  auto length =
      std::make_unique<Length>(Length{.bytes = bytes, .number = static_cast<uint32_t>(lengths_.size())});
  if (!make(*length, why)) {
    refuse(bytes, why);
    return nullptr;
  }
  lengths_.push_back(std::move(length));
  return lengths_.back().get();
}

// `why` is what was said of the best size.
bool Lengths::make(Length& length, std::string& why) const {
  const std::string name = "lmcache, " + std::to_string(length.bytes) + " bytes";
  if (length.bytes == 0) {
    why = "an empty value";
    return false;
  }
  for (const uint32_t size : segment_sizes) {
    const uint64_t segments = (length.bytes + size - 1) / size;
    if (segments > segments_max) continue;
    std::vector<uint32_t> segment_bytes(segments, size);
    segment_bytes.back() = static_cast<uint32_t>(length.bytes - (segments - 1) * size);
    kvpool_geometry geometry{};
    geometry.struct_size = sizeof geometry;
    geometry.name = name.c_str();
    geometry.block_tokens = 1;
    geometry.segments = static_cast<uint32_t>(segments);
    geometry.segment_bytes = segment_bytes.data();
    geometry.flat = 1;
    kvpool_error error{};
    if (kvpool_namespace_open(pool_, &geometry, &length.ns, &error) == KVPOOL_OK) {
      length.segment_bytes = size;
      length.segments = static_cast<uint32_t>(segments);
      return true;
    }
    if (why.empty()) why = error.message;
  }
  if (why.empty()) why = "values of " + std::to_string(length.bytes) + " bytes are too large";
  return false;
}

void Lengths::refuse(uint64_t bytes, std::string& why) {
  if (refused_.size() == refused_max) return;
  refused_.push_back({.bytes = bytes, .why = why});
  std::fprintf(stderr, "kvpool warning: lmcache: values of %llu bytes are not stored: %s\n",
               static_cast<unsigned long long>(bytes), why.c_str());
}

}  // namespace kvpool::lmcache
