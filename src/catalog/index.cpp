#include "catalog/index.h"

#include <algorithm>
#include <bit>

namespace kvpool {

Status Index::open(uint32_t blocks_max) {
  const uint64_t size = std::bit_ceil(std::max<uint64_t>(uint64_t{blocks_max} * 2, 16));
  KVPOOL_ASSERT(size <= (1ULL << 32));
  mask_ = static_cast<uint32_t>(size - 1);
  shift_ = 32U - static_cast<uint32_t>(std::countr_zero(size));
  return entries_.map(size, true);
}

void Index::insert(uint32_t tag, BlockId block) {
  uint32_t i = home(tag);
  while (entries_[i] != 0) i = (i + 1) & mask_;
  entries_[i] = make_entry(tag, block);
}

void Index::erase(uint32_t tag, BlockId block) {
  const uint64_t wanted = make_entry(tag, block);
  uint32_t hole = home(tag);
  while (entries_[hole] != wanted) {
    KVPOOL_ASSERT(entries_[hole] != 0);
    hole = (hole + 1) & mask_;
  }
  // Entries behind the hole move into it where that brings them no further forward than their home.
  for (uint32_t i = (hole + 1) & mask_; entries_[i] != 0; i = (i + 1) & mask_) {
    const uint32_t from_home = (i - home(tag_of(entries_[i]))) & mask_;
    if (from_home >= ((i - hole) & mask_)) {
      entries_[hole] = entries_[i];
      hole = i;
    }
  }
  entries_[hole] = 0;
}

uint32_t Index::probes_max() const {
  uint32_t longest = 0;
  for (size_t i = 0; i <= mask_; ++i) {
    if (entries_[i] == 0) continue;
    longest = std::max(longest, ((static_cast<uint32_t>(i) - home(tag_of(entries_[i]))) & mask_) + 1);
  }
  return longest;
}

}  // namespace kvpool
