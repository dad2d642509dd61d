// reserve(), and how it finds room: drop second residences where the plan needs it, spill, then evict.
//
// Eviction goes strictly by last use over all namespaces. Where the coldest block has slots of the size that
// is short, on the device that is short, it alone goes. Where another size owns the slabs, freeing its slots
// here and there would not help, so the slab that holds the coldest block's segment changes over: all its
// blocks go, with their descendants, unless somebody pins one of them.
//
// Cost: each step evicts at least one block, and a call ends after evictions_max steps if spilling is enough
// by then, so it frees a few times what it needs at most. A slab that changes over costs as many evictions as
// blocks have slots in it, and their descendants.

#include "catalog/impl.h"

namespace kvpool {
namespace {

// A device whose planned share is larger than its part of the capacity is always full: after so many steps
// without room there, the block spills into what they freed elsewhere.
constexpr uint32_t evictions_max = 16;

// A store writes a chain's blocks side by side: a parent may still be written, but it becomes Ready first.
bool may_have_children(BlockState state) {
  return state == BlockState::ready || state == BlockState::writing;
}

}  // namespace

Catalog::Reservation Catalog::Impl::reserve(NamespaceId ns, const BlockKey& key, BlockId parent, Phase phase,
                                            uint32_t depth, std::span<const DeviceId> plan) {
  KVPOOL_ASSERT(ns.value < shapes.size());
  const Shape& its = *shapes[ns.value];
  KVPOOL_ASSERT(plan.size() == its.segments() && (!its.flat || parent == no_block));
  for (const DeviceId device : plan) KVPOOL_ASSERT(device.value < spaces.size());
  const Reservation rejected{.code = Errc::rejected};
  const BlockId known = find(ns, key);
  if (known != no_block) {
    if (blocks[known].state == BlockState::writing) return {.code = Errc::busy};
    // Behind another block no match() would find it.
    if (!its.flat && blocks[known].parent != parent.value) return rejected;
    return {.code = Errc::ok, .block = known, .existing = true};
  }
  if (!its.fits) return rejected;
  if (parent != no_block) {
    if (!blocks.valid(parent) || !may_have_children(blocks[parent].state) || blocks[parent].ns != ns) {
      return rejected;
    }
    // Nothing that makes room may take the parent away.
    blocks.pin(parent);
  }
  Segments chosen;
  const BlockId block = take_record();
  const bool found =
      block != no_block && find_room(its, plan, Planner::first_point(phase, depth, its.segments()), chosen);
  if (block != no_block && found) {
    Record& record = blocks[block];
    record.key = key;
    record.ns = ns;
    record.phase = phase;
    record.depth = depth;
    record.cell = extents.take(block, false, {chosen.data(), plan.size()});
    for (uint32_t s = 0; s < plan.size(); ++s) {
      set_device(block, s, chosen[s].device);
      if (chosen[s].device == plan[s]) continue;
      ++counters.spilled_segments;
      counters.spilled_bytes += its.geometry.segment_bytes[s];
    }
    index.insert(Index::tag(ns, key), block);
    live_bytes += its.block_bytes;
    ++writing_blocks;
    if (parent != no_block) blocks.attach(block, parent);
  } else if (block != no_block) {
    blocks[block].pins = 0;
    blocks.give(block);
  }
  if (parent != no_block) unpin(parent);
  return found ? Reservation{.code = Errc::ok, .block = block} : rejected;
}

BlockId Catalog::Impl::take_record() {
  BlockId block = blocks.take();
  while (block == no_block && blocks.coldest() != no_block) {
    evict(blocks.coldest());
    block = blocks.take();
  }
  return block;
}

bool Catalog::Impl::find_room(const Shape& shape, std::span<const DeviceId> plan, uint64_t first_point,
                              std::span<SegmentSlot> chosen) {
  for (uint32_t evictions = 0;;) {
    const Fit fit = planner.fit(spaces, shape, plan, first_point, chosen);
    if (fit == Fit::planned) return true;
    if (drop_seconds_for(planner.short_of(), fit == Fit::no_room)) continue;
    const bool may_spill = fit == Fit::spilled;
    // Nothing that is evicted makes room on a device that is away.
    const bool away = !planner.is_online(planner.short_of().device);
    if (may_spill && (evictions == 0 || evictions >= evictions_max || away)) return true;
    if (!make_room(planner.short_of())) return may_spill;
    ++evictions;
  }
}

bool Catalog::Impl::make_room(SegmentSlot shortage) {
  const BlockId block = blocks.coldest();
  if (block == no_block) return false;
  const uint32_t slab = slab_to_change(block, shortage);
  if (slab != none && empty_slab(spaces[shortage.device.value], slab)) return true;
  evict(block);
  return true;
}

void Catalog::Impl::evict(BlockId block) { counters.evicted_blocks += retire_tree(block); }

uint32_t Catalog::Impl::slab_to_change(BlockId block, SegmentSlot shortage) const {
  const Space& space = spaces[shortage.device.value];
  if (space.slots_per_slab(shortage.size_class) == 0) return none;
  uint32_t best = none;
  extents.for_each(blocks[block].cell, [&](const Run& run) {
    if (run.device != shortage.device) return true;
    const uint32_t number = space.slab_of(run.slots.granule);
    if (space.slab(number).size_class == shortage.size_class) {
      best = none;
      return false;
    }
    if (best == none || space.slab(number).used < space.slab(best).used) best = number;
    return true;
  });
  return best;
}

// Evicts every block that has a slot in the slab, with its descendants; or nothing, if one is pinned.
bool Catalog::Impl::empty_slab(Space& space, uint32_t number) {
  const uint32_t first = space.slab(number).first_run;
  bool evictable = true;
  uint32_t end = first;
  for (; end != none && evictable; end = extents.next_in_slab(end)) {
    evictable = mark_evictable(extents.owner(end));
  }
  for (uint32_t run = first; run != end; run = extents.next_in_slab(run)) unmark(extents.owner(run));
  if (!evictable) return false;
  while (space.slab(number).first_run != none) evict(extents.owner(space.slab(number).first_run));
  return true;
}

// Marks the subtree, so that it is looked at once however many of its blocks are in a slab. False: a block
// in it is pinned.
bool Catalog::Impl::mark_evictable(BlockId root) {
  for (BlockId at = root; at != no_block;) {
    Record& record = blocks[at];
    if (record.pins > 0) return false;
    const bool fresh = !record.marked;
    record.marked = true;
    at = blocks.next_in_subtree(root, at, fresh);
  }
  return true;
}

// A subtree that was left half-way has marks in the part that comes first, and the walk follows marks.
void Catalog::Impl::unmark(BlockId root) {
  for (BlockId at = root; at != no_block;) {
    const bool was_marked = blocks[at].marked;
    blocks[at].marked = false;
    at = blocks.next_in_subtree(root, at, was_marked);
  }
}

}  // namespace kvpool
