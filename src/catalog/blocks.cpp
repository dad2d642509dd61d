#include "catalog/blocks.h"

namespace kvpool {
namespace {

// How far list_by_use() looks.
constexpr uint32_t steps_max = 256;

bool earlier(uint32_t a, uint32_t b) { return static_cast<int32_t>(a - b) < 0; }

}  // namespace

Status Blocks::open(uint32_t blocks_max) { return records_.map(blocks_max, true); }

BlockId Blocks::take() {
  BlockId block = free_;
  if (block != no_block) {
    free_ = BlockId((*this)[block].child_or_colder);
    --free_count_;
  } else if (fresh_ < records_.size()) {
    block = BlockId(fresh_++);
  } else {
    return no_block;
  }
  const uint32_t generation = (*this)[block].generation;
  (*this)[block] = Record{.key = {},
                          .parent = none,
                          .next_sibling = none,
                          .prev_sibling = none,
                          .child_or_colder = none,
                          .hotter = none,
                          .used = clock_,
                          .pins = 1,
                          .generation = generation,
                          .depth = 0,
                          .phase = {},
                          .cell = none,
                          .ns = {},
                          .state = BlockState::writing,
                          .listed = false,
                          .orphan = false,
                          .marked = false};
  return block;
}

void Blocks::give(BlockId block) {
  Record& record = (*this)[block];
  KVPOOL_ASSERT(record.pins == 0 && !record.listed && record.parent == none && is_leaf(block));
  record.state = BlockState::free;
  ++record.generation;
  record.child_or_colder = free_.value;
  free_ = block;
  ++free_count_;
}

void Blocks::attach(BlockId child, BlockId parent) {
  if ((*this)[parent].listed) unlist(parent);
  Record& record = (*this)[child];
  record.parent = parent.value;
  record.next_sibling = (*this)[parent].child_or_colder;
  record.prev_sibling = none;
  if (record.next_sibling != none) records_[record.next_sibling].prev_sibling = child.value;
  (*this)[parent].child_or_colder = child.value;
}

void Blocks::detach(BlockId child, bool keep_parent) {
  Record& record = (*this)[child];
  if (record.parent == none) return;
  const BlockId parent(record.parent);
  Record& above = (*this)[parent];
  if (record.prev_sibling != none) {
    records_[record.prev_sibling].next_sibling = record.next_sibling;
  } else {
    above.child_or_colder = record.next_sibling;
  }
  if (record.next_sibling != none) records_[record.next_sibling].prev_sibling = record.prev_sibling;
  record.parent = record.next_sibling = record.prev_sibling = none;
  if (!keep_parent || above.child_or_colder != none) return;
  if (above.state == BlockState::ready && above.pins == 0) list_by_use(parent);
}

void Blocks::unpin(BlockId block) {
  Record& record = (*this)[block];
  KVPOOL_ASSERT(record.pins > 0);
  if (--record.pins > 0 || record.state != BlockState::ready) return;
  record.used = clock_;
  if (is_leaf(block)) list_hottest(block);
}

void Blocks::unlist(BlockId block) {
  Record& record = (*this)[block];
  const BlockId hotter(record.hotter);
  const BlockId colder(record.child_or_colder);
  if (hotter != no_block) {
    (*this)[hotter].child_or_colder = colder.value;
  } else {
    hottest_ = colder;
  }
  if (colder != no_block) {
    (*this)[colder].hotter = hotter.value;
  } else {
    coldest_ = hotter;
  }
  record.listed = false;
  record.hotter = record.child_or_colder = none;
  --listed_;
}

void Blocks::list_hottest(BlockId block) {
  Record& record = (*this)[block];
  record.used = clock_;
  record.listed = true;
  record.hotter = none;
  record.child_or_colder = hottest_.value;
  if (hottest_ != no_block) {
    (*this)[hottest_].hotter = block.value;
  } else {
    coldest_ = block;
  }
  hottest_ = block;
  ++listed_;
}

// Parents were used when their children were, as a rule, so the place is close to the cold end. One that is
// not found within steps_max is far from being evicted anyway, and counts as used now.
void Blocks::list_by_use(BlockId block) {
  Record& record = (*this)[block];
  BlockId above = coldest_;
  for (uint32_t step = 0; above != no_block && earlier((*this)[above].used, record.used); ++step) {
    if (step == steps_max) return list_hottest(block);
    above = BlockId((*this)[above].hotter);
  }
  if (above == no_block) {
    const uint32_t used = record.used;
    list_hottest(block);
    record.used = used;
    return;
  }
  const BlockId below((*this)[above].child_or_colder);
  record.listed = true;
  record.hotter = above.value;
  record.child_or_colder = below.value;
  (*this)[above].child_or_colder = block.value;
  if (below != no_block) {
    (*this)[below].hotter = block.value;
  } else {
    coldest_ = block;
  }
  ++listed_;
}

BlockId Blocks::deepest(BlockId block) const {
  for (BlockId child = first_child(block); child != no_block; child = first_child(block)) block = child;
  return block;
}

BlockId Blocks::next_in_subtree(BlockId root, BlockId at, bool descend) const {
  if (descend && !is_leaf(at)) return first_child(at);
  while (at != root) {
    const Record& record = (*this)[at];
    if (record.next_sibling != none) return BlockId(record.next_sibling);
    at = BlockId(record.parent);
  }
  return no_block;
}

void Blocks::check_list() const {
  uint32_t count = 0;
  BlockId hotter = no_block;
  for (BlockId at = hottest_; at != no_block; at = BlockId((*this)[at].child_or_colder)) {
    const Record& record = (*this)[at];
    KVPOOL_ASSERT(record.listed && record.hotter == hotter.value);
    KVPOOL_ASSERT(hotter == no_block || !earlier((*this)[hotter].used, record.used));
    hotter = at;
    KVPOOL_ASSERT(++count <= listed_);
  }
  KVPOOL_ASSERT(coldest_ == hotter && count == listed_);
}

void Blocks::check_tree(BlockId block, uint64_t& children) const {
  BlockId before = no_block;
  for (BlockId at = first_child(block); at != no_block; at = BlockId((*this)[at].next_sibling)) {
    const Record& child = (*this)[at];
    KVPOOL_ASSERT(child.parent == block.value && child.prev_sibling == before.value);
    KVPOOL_ASSERT(child.state == BlockState::ready || child.state == BlockState::writing);
    KVPOOL_ASSERT(child.ns == (*this)[block].ns);
    KVPOOL_ASSERT(++children <= fresh_);
    before = at;
  }
}

void Blocks::check() const {
  check_list();
  uint64_t children = 0;
  uint64_t with_parent = 0;
  uint32_t listed = 0;
  uint32_t free = 0;
  for (uint32_t i = 0; i < fresh_; ++i) {
    const BlockId block(i);
    const Record& record = (*this)[block];
    KVPOOL_ASSERT(!record.marked);
    if (record.state == BlockState::free) {
      KVPOOL_ASSERT(record.pins == 0 && record.parent == none && !record.listed);
      ++free;
      continue;
    }
    check_tree(block, children);
    listed += record.listed ? 1 : 0;
    with_parent += record.parent != none ? 1 : 0;
    const bool evictable = record.state == BlockState::ready && record.pins == 0 && is_leaf(block);
    KVPOOL_ASSERT(record.listed == evictable);
    KVPOOL_ASSERT(record.state == BlockState::ready || record.pins > 0);
    KVPOOL_ASSERT(record.state == BlockState::ready || is_leaf(block));
    KVPOOL_ASSERT(record.state != BlockState::retired || record.parent == none);
    KVPOOL_ASSERT(!record.orphan || (record.state != BlockState::ready && record.parent == none));
  }
  KVPOOL_ASSERT(listed == listed_ && children == with_parent && free == free_count_);
  for (BlockId at = free_; at != no_block; at = BlockId((*this)[at].child_or_colder)) {
    KVPOOL_ASSERT((*this)[at].state == BlockState::free && free-- > 0);
  }
  KVPOOL_ASSERT(free == 0);
}

}  // namespace kvpool
