// StoredKeys: in which lengths a key may have been stored, ever; for certain in no other.
//
// A key is asked for in each length's namespace: most of them need not be. What was evicted or removed stays
// noted, and keys share a place, so the answer may be too many lengths, never too few.
//
// Thread: its owner's. Failure: none. Holds 8 MiB.

#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kvpool/kvpool.h"

namespace kvpool::lmcache {

class StoredKeys {
 public:
  void note(const kvpool_key& key, uint32_t length) { places_[place_of(key)] |= bit_of(length); }
  [[nodiscard]] bool may_have(const kvpool_key& key, uint32_t length) const {
    return (places_[place_of(key)] & bit_of(length)) != 0;
  }

 private:
  static constexpr size_t places = 1U << 20;

  // Keys are hashes.
  static size_t place_of(const kvpool_key& key) { return key.low % places; }
  static uint64_t bit_of(uint32_t length) { return uint64_t{1} << (length % 64); }

  std::vector<uint64_t> places_ = std::vector<uint64_t>(places);
};

}  // namespace kvpool::lmcache
