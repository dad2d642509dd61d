// What a segment holds in the simulator: a pure function of its namespace, key and number, so that every
// retrieved byte can be checked without remembering what was stored.

#pragma once

#include <cstddef>
#include <cstring>
#include <span>

#include "base/ids.h"
#include "base/prng.h"

namespace kvpool::sim {

inline uint64_t payload_seed(NamespaceId ns, const BlockKey& key, uint32_t segment) {
  return mix64(key.high + mix64(key.low + mix64(segment + (uint64_t{ns.value} << 32))));
}

inline void fill_payload(std::span<std::byte> out, uint64_t seed) {
  Prng prng(seed);
  size_t at = 0;
  for (; at + 8 <= out.size(); at += 8) {
    const uint64_t word = prng.next();
    std::memcpy(out.data() + at, &word, 8);
  }
  for (; at < out.size(); ++at) out[at] = static_cast<std::byte>(prng.next());
}

inline bool is_payload(std::span<const std::byte> bytes, uint64_t seed) {
  Prng prng(seed);
  size_t at = 0;
  for (; at + 8 <= bytes.size(); at += 8) {
    const uint64_t word = prng.next();
    if (std::memcmp(bytes.data() + at, &word, 8) != 0) return false;
  }
  for (; at < bytes.size(); ++at) {
    if (bytes[at] != static_cast<std::byte>(prng.next())) return false;
  }
  return true;
}

}  // namespace kvpool::sim
