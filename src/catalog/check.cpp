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
void Catalog::Impl::check_block(BlockId block) const {
  const Record& record = blocks[block];
  const Shape& its = shape(record);
  KVPOOL_ASSERT(!its.flat || record.parent == none);
  if (record.parent != none) {
    KVPOOL_ASSERT(blocks[BlockId(record.parent)].state == BlockState::ready);
  }
  Segments segments;
  std::array<Located, kvpool::segments_max> located;
  const auto wanted = segments_of(block, segments);
  extents.locate(record.cell, wanted, located);
  size_t slots = 0;
  extents.for_each(record.cell, [&](const Run& run) {
    slots += run.slots.count;
    return true;
  });
  KVPOOL_ASSERT(slots == wanted.size());
  for (size_t s = 0; s < wanted.size(); ++s) {
    const Space& space = spaces[located[s].device.value];
    KVPOOL_ASSERT(space.class_at(located[s].granule) == wanted[s].size_class);
    KVPOOL_ASSERT(space.slot_bytes(wanted[s].size_class) >= its.geometry.segment_bytes[s]);
    KVPOOL_ASSERT(space.offset(located[s].granule).value + space.slot_bytes(wanted[s].size_class) <=
                  space.size_bytes());
  }
}

void Catalog::Impl::check() const {
  blocks.check();
  check_index();
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
    check_block(block);
  }
  KVPOOL_ASSERT(ready == ready_blocks && writing == writing_blocks && retired == retired_blocks);
  KVPOOL_ASSERT(bytes == live_bytes && cells == extents.used_cells());
  extents.check_slabs();
}

}  // namespace kvpool
