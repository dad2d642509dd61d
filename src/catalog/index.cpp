#include "catalog/index.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace kvpool {

Status Index::open(uint32_t blocks_max) {
  const uint64_t size = std::bit_ceil(std::max<uint64_t>(uint64_t{blocks_max} * 2, 16));
  KVPOOL_ASSERT(size <= (1ULL << 32));
  mask_ = static_cast<uint32_t>(size - 1);
  shift_ = 32U - static_cast<uint32_t>(std::countr_zero(size));
  return entries_.map(size, true);
}

void Index::insert(uint32_t tag, BlockId block) {
  uint64_t entry = make_entry(tag, block);
  uint32_t i = home(tag);
  for (uint32_t distance = 0; entries_[i] != 0; ++distance) {
    const uint32_t its_distance = from_home(i);
    if (its_distance < distance) {
      std::swap(entry, entries_[i]);
      distance = its_distance;
    }
    i = (i + 1) & mask_;
  }
  entries_[i] = entry;
}

void Index::erase(uint32_t tag, BlockId block) {
  const uint64_t wanted = make_entry(tag, block);
  uint32_t hole = home(tag);
  while (entries_[hole] != wanted) {
    KVPOOL_ASSERT(entries_[hole] != 0);
    hole = (hole + 1) & mask_;
  }
  for (uint32_t i = (hole + 1) & mask_; entries_[i] != 0 && from_home(i) > 0; i = (i + 1) & mask_) {
    entries_[hole] = entries_[i];
    hole = i;
  }
  entries_[hole] = 0;
}

uint32_t Index::probes_max() const {
  uint32_t longest = 0;
  for (size_t i = 0; i <= mask_; ++i) {
    if (entries_[i] != 0) longest = std::max(longest, from_home(static_cast<uint32_t>(i)) + 1);
  }
  return longest;
}

}  // namespace kvpool
