// Catalog::check(): every link followed, every count counted anew.

#include <algorithm>

#include "catalog/impl.h"

namespace kvpool {

void Catalog::Impl::check_index() const {
  uint64_t entries = 0;
  index.for_each([&](uint32_t tag, BlockId block) {
    ++entries;
    const Record& record = live(block);
    KVPOOL_ASSERT(record.state == BlockState::ready || record.state == BlockState::writing);
    KVPOOL_ASSERT(tag == Index::tag(record.ns, record.key));
    KVPOOL_ASSERT(find(record.ns, record.key) == block);
  });
  KVPOOL_ASSERT(entries == ready_blocks + writing_blocks);
}

// That the runs are those which the segments' devices and sizes call for.
void Catalog::Impl::check_segments(BlockId block, uint32_t cell, std::span<const SegmentSlot> wanted) const {
  const Geometry& geometry = shape(blocks[block]).geometry;
  std::array<Located, kvpool::segments_max> located;
  extents.locate(cell, wanted, located);
  size_t slots = 0;
  extents.for_each(cell, [&](const Run& run) {
    slots += run.slots.count;
    return true;
  });
  for (size_t s = 0; s < wanted.size(); ++s) {
    if (wanted[s].device == no_device) continue;
    --slots;
    const Space& space = spaces[located[s].device.value];
    const uint64_t slot_bytes = space.slot_bytes(wanted[s].size_class);
    KVPOOL_ASSERT(space.class_at(located[s].granule) == wanted[s].size_class);
    KVPOOL_ASSERT(slot_bytes >= geometry.segment_bytes[s]);
    KVPOOL_ASSERT(space.offset(located[s].granule).value + slot_bytes <= space.size_bytes());
  }
  KVPOOL_ASSERT(slots == 0);
}

void Catalog::Impl::check_block(BlockId block) const {
  const Record& record = blocks[block];
  KVPOOL_ASSERT(!shape(record).flat || record.parent == none);
  if (record.parent != none) {
    KVPOOL_ASSERT(blocks[BlockId(record.parent)].state == BlockState::ready);
  }
  Segments segments;
  check_segments(block, record.cell, segments_of(block, segments));
  if (seconds.state(block) != SecondState::absent) {
    check_segments(block, seconds[block].cell, second_segments_of(block, segments));
  }
}

void Catalog::Impl::check() const {
  blocks.check();
  check_index();
  seconds.check(blocks);
  uint64_t ready = 0;
  uint64_t writing = 0;
  uint64_t retired = 0;
  uint64_t bytes = 0;
  uint32_t cells = 0;
  for (uint32_t i = 0; i < blocks.fresh(); ++i) {
    const BlockId block(i);
    const Record& record = blocks[block];
    if (record.state == BlockState::free) {
      KVPOOL_ASSERT(record.cell == none);
      continue;
    }
    ready += record.state == BlockState::ready ? 1 : 0;
    writing += record.state == BlockState::writing ? 1 : 0;
    retired += record.state == BlockState::retired ? 1 : 0;
    bytes += shape(record).block_bytes;
    cells += extents.check_chain(record.cell, block, false);
    if (seconds.state(block) != SecondState::absent) {
      cells += extents.check_chain(seconds[block].cell, block, true);
    }
    check_block(block);
  }
  KVPOOL_ASSERT(ready == ready_blocks && writing == writing_blocks && retired == retired_blocks);
  KVPOOL_ASSERT(bytes == live_bytes && cells == extents.used_cells());
  extents.check_slabs();
}

}  // namespace kvpool
