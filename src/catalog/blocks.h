// Blocks: the records, one cache line each, with the two structures that run through them: the tree of
// parents and children, and the list of evictable blocks, hottest to coldest.
//
// The list holds the Ready leaves that nobody pins, and no others, ordered by last use. A block with children
// cannot be evicted, so it needs no place in the list, and a match of a chain moves one record only; `used`
// says where to put a block whose last child goes.
//
// Thread: its owner's. Failure: take() may find no record; all else is asserted.

#pragma once

#include "base/assert.h"
#include "base/ids.h"
#include "catalog/array.h"
#include "layout/placement.h"

namespace kvpool {

inline constexpr uint32_t none = UINT32_MAX;  // no block, run, cell or slab

enum class BlockState : uint8_t { free, writing, ready, retired };

struct Record {
  BlockKey key;
  uint32_t parent;
  uint32_t next_sibling;
  uint32_t prev_sibling;
  uint32_t child_or_colder;  // listed: the next colder block of the list; else the first child.
                             // A free record: the next free one.
  uint32_t hotter;           // listed: the next hotter block of the list
  uint32_t used;             // clock of the last use; wraps, so that only differences count
  uint32_t pins;
  uint32_t generation;
  uint32_t depth;
  Phase phase;
  uint32_t cell;  // the first of its extents
  NamespaceId ns;
  BlockState state;
  bool listed : 1;  // in the list of evictable blocks
  bool orphan : 1;  // Writing, and its parent was retired
  bool marked : 1;  // scratch of a walk
};
static_assert(sizeof(Record) == 64);

class Blocks {
 public:
  [[nodiscard]] Status open(uint32_t blocks_max);

  Record& operator[](BlockId block) { return records_[block.value]; }
  const Record& operator[](BlockId block) const { return records_[block.value]; }
  [[nodiscard]] bool valid(BlockId block) const { return block.value < fresh_; }
  // Records [0, fresh) were used at least once.
  [[nodiscard]] uint32_t fresh() const { return fresh_; }
  [[nodiscard]] uint32_t blocks_max() const { return static_cast<uint32_t>(records_.size()); }
  void prefetch(BlockId block) const { __builtin_prefetch(&records_[block.value], 1); }

  // Asks for what touch(block) will change.
  void prefetch_neighbours(BlockId block) const {
    const Record& record = (*this)[block];
    if (!record.listed) return;
    if (record.hotter != none) prefetch(BlockId(record.hotter));
    if (record.child_or_colder != none) prefetch(BlockId(record.child_or_colder));
  }

  // A Writing record without links, pinned once; no_block when all are in use.
  [[nodiscard]] BlockId take();
  void give(BlockId block);  // REQUIRES: no links, no pins. Its generation grows.

  [[nodiscard]] BlockId first_child(BlockId block) const {
    const Record& record = (*this)[block];
    return BlockId(record.listed ? none : record.child_or_colder);
  }
  [[nodiscard]] bool is_leaf(BlockId block) const { return first_child(block) == no_block; }
  void attach(BlockId child, BlockId parent);
  // keep_parent: the parent stays, and becomes evictable if this was its last child.
  void detach(BlockId child, bool keep_parent);

  // Starts a new moment of use.
  void tick() { ++clock_; }
  // The block is used now.
  void touch(BlockId block) {
    Record& record = (*this)[block];
    record.used = clock_;
    if (record.listed && hottest_ != block) {
      unlist(block);
      list_hottest(block);
    }
  }
  void pin(BlockId block) {
    Record& record = (*this)[block];
    if (record.listed) unlist(block);
    ++record.pins;
  }
  // Takes one pin back. A Ready block counts as used until now.
  void unpin(BlockId block);
  void unlist(BlockId block);
  [[nodiscard]] BlockId coldest() const { return coldest_; }
  [[nodiscard]] uint32_t listed() const { return listed_; }

  // The last block of the subtree of `block` in the order that visits children before parents' siblings:
  // follow first children down to a leaf.
  [[nodiscard]] BlockId deepest(BlockId block) const;
  // Preorder: the block after `at` in the subtree of `root`; descend: into the children of `at` too.
  [[nodiscard]] BlockId next_in_subtree(BlockId root, BlockId at, bool descend) const;

  // Asserts that records, tree and list hang together.
  void check() const;

 private:
  void list_hottest(BlockId block);
  void list_by_use(BlockId block);
  void check_list() const;
  void check_tree(BlockId block, uint64_t& children) const;

  HugeArray<Record> records_;
  uint32_t fresh_ = 0;
  BlockId free_ = no_block;
  uint32_t free_count_ = 0;
  BlockId hottest_ = no_block;
  BlockId coldest_ = no_block;
  uint32_t listed_ = 0;
  uint32_t clock_ = 0;
};

}  // namespace kvpool
