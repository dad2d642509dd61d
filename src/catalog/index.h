// Index: key to block, an open-addressing table of 8 bytes an entry: a 32-bit tag and the block's number.
// Linear probing, at most half full. Of two entries that want one place, the one further from its home gets
// it (Robin Hood hashing, P. Celis, 1986), so that the longest probe stays near the mean; deletion shifts
// back, so that there are no tombstones. An entry's home is the upper bits of its tag: moving it needs no
// look at its record.
//
// Thread: its owner's. The index holds no keys: find() asks its caller whether a block has the key.

#pragma once

#include "base/assert.h"
#include "base/ids.h"
#include "base/prng.h"
#include "catalog/array.h"

namespace kvpool {

class Index {
 public:
  [[nodiscard]] Status open(uint32_t blocks_max);

  [[nodiscard]] static uint32_t tag(NamespaceId ns, const BlockKey& key) {
    const uint64_t seeded = key.high + (uint64_t{ns.value} + 1) * 0x9e3779b97f4a7c15ULL;
    return static_cast<uint32_t>(mix64(mix64(seeded) ^ key.low) >> 32);
  }

  void prefetch(uint32_t tag) const { __builtin_prefetch(&entries_[home(tag)]); }

  // The first block from the tag's home on for which is_it(block) holds, or no_block.
  template <class IsIt>
  [[nodiscard]] BlockId find(uint32_t tag, IsIt&& is_it) const {
    for (uint32_t i = home(tag);; i = (i + 1) & mask_) {
      const uint64_t entry = entries_[i];
      if (entry == 0) return no_block;
      if (tag_of(entry) == tag && is_it(block_of(entry))) return block_of(entry);
    }
  }

  void insert(uint32_t tag, BlockId block);  // REQUIRES: not in it
  void erase(uint32_t tag, BlockId block);   // REQUIRES: in it

  // Calls visit(tag, block) for every entry.
  template <class Visit>
  void for_each(Visit&& visit) const {
    for (size_t i = 0; i <= mask_; ++i) {
      if (entries_[i] != 0) visit(tag_of(entries_[i]), block_of(entries_[i]));
    }
  }
  [[nodiscard]] uint32_t probes_max() const;
  [[nodiscard]] uint64_t bytes() const { return entries_.size() * sizeof(uint64_t); }

 private:
  // The block's number plus one, so that zeroed memory is an empty table.
  static uint64_t make_entry(uint32_t tag, BlockId block) {
    return (uint64_t{tag} << 32) | (uint64_t{block.value} + 1);
  }
  static uint32_t tag_of(uint64_t entry) { return static_cast<uint32_t>(entry >> 32); }
  static BlockId block_of(uint64_t entry) { return BlockId(static_cast<uint32_t>(entry) - 1); }
  [[nodiscard]] uint32_t home(uint32_t tag) const { return tag >> shift_; }
  // How far behind its home the entry at i lies. REQUIRES: there is one.
  [[nodiscard]] uint32_t from_home(uint32_t i) const { return (i - home(tag_of(entries_[i]))) & mask_; }

  HugeArray<uint64_t> entries_;
  uint32_t mask_ = 0;
  uint32_t shift_ = 0;
};

}  // namespace kvpool
