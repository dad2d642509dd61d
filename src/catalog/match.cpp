// match(): a long run of look-ups is bound by cache misses, so it goes through the keys in groups, and each
// group in stages: its index lines are asked for while the group before is compared, then its records.

#include <algorithm>

#include "catalog/impl.h"

namespace kvpool {
namespace {

// Enough for the misses in flight of one core, twice over.
constexpr size_t group_max = 32;

struct Group {
  std::array<uint32_t, group_max> tags;
  std::array<BlockId, group_max> candidates;
  size_t first = 0;
  size_t count = 0;
};

void ask_for_index(const Index& index, NamespaceId ns, std::span<const BlockKey> keys, size_t first,
                   Group& group) {
  group.first = first;
  group.count = std::min(group_max, keys.size() - first);
  for (size_t i = 0; i < group.count; ++i) {
    group.tags[i] = Index::tag(ns, keys[first + i]);
    index.prefetch(group.tags[i]);
  }
}

void ask_for_records(const Index& index, const Blocks& blocks, Group& group) {
  for (size_t i = 0; i < group.count; ++i) {
    group.candidates[i] = index.find(group.tags[i], [](BlockId) { return true; });
    if (group.candidates[i] != no_block) blocks.prefetch(group.candidates[i]);
  }
}

}  // namespace

uint32_t Catalog::Impl::match(NamespaceId ns, BlockId parent, std::span<const BlockKey> keys,
                              std::span<BlockId> out) {
  KVPOOL_ASSERT(ns.value < shapes.size() && out.size() >= keys.size());
  if (keys.empty()) return 0;
  const bool flat = shapes[ns.value]->flat;
  blocks.tick();
  std::array<Group, 2> groups;
  ask_for_index(index, ns, keys, 0, groups[0]);
  ask_for_records(index, blocks, groups[0]);
  uint32_t before = parent.value;
  for (size_t turn = 0;; ++turn) {
    const Group& now = groups[turn % 2];
    Group& next = groups[(turn + 1) % 2];
    const size_t end = now.first + now.count;
    // A run that misses at once must not pay for the keys behind it.
    const bool more = end < keys.size() && now.candidates[0] != no_block;
    if (more) ask_for_index(index, ns, keys, end, next);
    for (size_t i = now.first; i < end; ++i) {
      BlockId block = now.candidates[i - now.first];
      if (block == no_block) return static_cast<uint32_t>(i);
      if (blocks[block].key != keys[i] || blocks[block].ns != ns) block = find(ns, keys[i]);
      if (block == no_block || blocks[block].state != BlockState::ready) return static_cast<uint32_t>(i);
      if (!flat && blocks[block].parent != before) return static_cast<uint32_t>(i);
      out[i] = block;
      before = block.value;
      blocks.touch(block);
    }
    if (end == keys.size()) return static_cast<uint32_t>(end);
    KVPOOL_ASSERT(more);
    ask_for_records(index, blocks, next);
  }
}

}  // namespace kvpool
