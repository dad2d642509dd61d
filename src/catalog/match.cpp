// match(): a long run of look-ups is bound by cache misses, so it goes through the keys in groups, and each
// group in four stages, one a turn: ask for its index lines; find its candidates, ask for their records;
// compare, ask for their neighbours in the list of evictable blocks; move them in the list.

#include <algorithm>

#include "catalog/impl.h"

namespace kvpool {
namespace {

// Enough for the misses that a core has in flight, twice over.
constexpr size_t group_max = 32;

}  // namespace

struct Catalog::Impl::Group {
  std::array<uint32_t, group_max> tags;
  std::array<BlockId, group_max> candidates;
  size_t first = 0;
  uint32_t count = 0;
};

void Catalog::Impl::ask_for_index(NamespaceId ns, std::span<const BlockKey> keys, size_t first,
                                  Group& group) const {
  group.first = std::min(first, keys.size());
  group.count = static_cast<uint32_t>(std::min(group_max, keys.size() - group.first));
  for (size_t i = 0; i < group.count; ++i) {
    group.tags[i] = Index::tag(ns, keys[group.first + i]);
    index.prefetch(group.tags[i]);
  }
}

void Catalog::Impl::ask_for_records(Group& group) const {
  for (size_t i = 0; i < group.count; ++i) {
    group.candidates[i] = index.find(group.tags[i], [](BlockId) { return true; });
    if (group.candidates[i] != no_block) blocks.prefetch(group.candidates[i]);
  }
}

uint32_t Catalog::Impl::compare(NamespaceId ns, const Group& group, std::span<const BlockKey> keys,
                                uint32_t& before, std::span<BlockId> out) const {
  const bool flat = shapes[ns.value]->flat;
  for (uint32_t i = 0; i < group.count; ++i) {
    const BlockKey& key = keys[group.first + i];
    BlockId block = group.candidates[i];
    if (block == no_block) return i;
    if (blocks[block].key != key || blocks[block].ns != ns) block = find(ns, key);
    if (block == no_block || blocks[block].state != BlockState::ready) return i;
    if (!flat && blocks[block].parent != before) return i;
    blocks.prefetch_neighbours(block);
    out[group.first + i] = block;
    before = block.value;
  }
  return group.count;
}

uint32_t Catalog::Impl::match(NamespaceId ns, BlockId parent, std::span<const BlockKey> keys,
                              std::span<BlockId> out) {
  KVPOOL_ASSERT(ns.value < shapes.size() && out.size() >= keys.size());
  std::array<Group, 3> groups;
  ask_for_index(ns, keys, 0, groups[0]);
  ask_for_records(groups[0]);
  // A run that misses at once must not pay for the keys behind it.
  if (keys.empty() || groups[0].candidates[0] == no_block) return 0;
  ask_for_index(ns, keys, group_max, groups[1]);
  blocks.tick();
  uint32_t before = parent.value;
  uint32_t found = 0;
  uint32_t touched = 0;
  for (size_t turn = 0; found < keys.size(); ++turn) {
    const Group& now = groups[turn % 3];
    ask_for_index(ns, keys, (turn + 2) * group_max, groups[(turn + 2) % 3]);
    ask_for_records(groups[(turn + 1) % 3]);
    const uint32_t same = compare(ns, now, keys, before, out);
    for (; touched < found; ++touched) blocks.touch(out[touched]);
    found += same;
    if (same < now.count) break;
  }
  for (; touched < found; ++touched) blocks.touch(out[touched]);
  return found;
}

}  // namespace kvpool
