#include "catalog/extents.h"

#include <algorithm>

namespace kvpool {
namespace {

constexpr uint8_t second_bit = 0x80;
constexpr uint32_t run_slots_max = UINT8_MAX;
static_assert(devices_max <= second_bit);
static_assert(segments_max <= run_slots_max);

// The runs that still have slots to hand out, while a chain is written or read from its first segment on.
class OpenRuns {
 public:
  struct Open {
    SegmentSlot kind;
    uint32_t granule;
    uint32_t left;
  };
  // The run of that kind, or a new one with nothing left.
  Open& of(SegmentSlot kind) {
    for (uint32_t i = 0; i < size_; ++i) {
      if (runs_[i].kind.device == kind.device && runs_[i].kind.size_class == kind.size_class) return runs_[i];
    }
    runs_[size_] = {.kind = kind, .granule = 0, .left = 0};
    return runs_[size_++];
  }

 private:
  std::array<Open, segments_max> runs_;
  uint32_t size_ = 0;
};

uint32_t count_kind(std::span<const SegmentSlot> segments, SegmentSlot kind) {
  return static_cast<uint32_t>(std::ranges::count_if(segments, [&](const SegmentSlot& s) {
    return s.device == kind.device && s.size_class == kind.size_class;
  }));
}

}  // namespace

Status Extents::open(uint32_t cells_max, std::vector<Space>* spaces) {
  KVPOOL_ASSERT(cells_max < (1U << 30));
  spaces_ = spaces;
  return cells_.map(cells_max, false);
}

uint32_t Extents::take_cell(BlockId owner) {
  uint32_t cell = free_;
  if (cell != none) {
    free_ = cells_[cell].next;
    --free_count_;
  } else {
    KVPOOL_ASSERT(fresh_ < cells_.size());
    cell = fresh_++;
  }
  cells_[cell].next = none;
  cells_[cell].owner = owner.value;
  cells_[cell].count.fill(0);
  return cell;
}

uint32_t Extents::take(BlockId owner, bool second, std::span<const SegmentSlot> segments) {
  OpenRuns open;
  uint32_t head = none;
  uint32_t tail = none;
  uint32_t filled = runs_per_cell;
  for (size_t s = 0; s < segments.size(); ++s) {
    if (segments[s].device == no_device) continue;
    OpenRuns::Open& at = open.of(segments[s]);
    if (at.left == 0) {
      const uint32_t wanted = count_kind(segments.subspan(s), segments[s]);
      const Slots slots = (*spaces_)[segments[s].device.value].take(segments[s].size_class, wanted);
      if (filled == runs_per_cell) {
        const uint32_t cell = take_cell(owner);
        (head == none ? head : cells_[tail].next) = cell;
        tail = cell;
        filled = 0;
      }
      Cell& cell = cells_[tail];
      cell.granule[filled] = slots.granule;
      cell.count[filled] = static_cast<uint8_t>(slots.count);
      cell.device[filled] = static_cast<uint8_t>(segments[s].device.value | (second ? second_bit : 0));
      enlist(tail * runs_per_cell + filled);
      ++filled;
      at.left = slots.count;
    }
    --at.left;
  }
  return head;
}

void Extents::give(uint32_t cell) {
  while (cell != none) {
    for (uint32_t i = 0; i < runs_per_cell && cells_[cell].count[i] != 0; ++i) {
      const uint32_t reference = cell * runs_per_cell + i;
      delist(reference);
      const Run gone = run(reference);
      (*spaces_)[gone.device.value].give(gone.slots);
    }
    const uint32_t next = cells_[cell].next;
    cells_[cell].owner = none;
    cells_[cell].next = free_;
    free_ = cell;
    ++free_count_;
    cell = next;
  }
}

void Extents::locate(uint32_t cell, std::span<const SegmentSlot> segments, std::span<Located> out) const {
  OpenRuns open;
  uint32_t i = 0;
  for (size_t s = 0; s < segments.size(); ++s) {
    const DeviceId device = segments[s].device;
    out[s] = {.device = device, .granule = 0};
    if (device == no_device) continue;
    OpenRuns::Open& at = open.of(segments[s]);
    if (at.left == 0) {
      if (i == runs_per_cell) {
        cell = cells_[cell].next;
        i = 0;
      }
      KVPOOL_ASSERT(cell != none && (cells_[cell].device[i] & ~second_bit) == device.value);
      at.granule = cells_[cell].granule[i];
      at.left = cells_[cell].count[i];
      ++i;
    }
    out[s].granule = at.granule;
    at.granule += (*spaces_)[device.value].slot(segments[s].size_class);
    --at.left;
  }
}

Run Extents::run(uint32_t reference) const {
  const Cell& cell = cells_[reference / runs_per_cell];
  const uint32_t i = reference % runs_per_cell;
  return {.device = DeviceId(static_cast<uint8_t>(cell.device[i] & ~second_bit)),
          .second = (cell.device[i] & second_bit) != 0,
          .slots = {.granule = cell.granule[i], .count = cell.count[i]}};
}

void Extents::enlist(uint32_t reference) {
  const Run added = run(reference);
  Space& space = (*spaces_)[added.device.value];
  Slab& slab = space.slab(space.slab_of(added.slots.granule));
  prev_of(reference) = none;
  next_of(reference) = slab.first_run;
  if (slab.first_run != none) prev_of(slab.first_run) = reference;
  slab.first_run = reference;
}

void Extents::delist(uint32_t reference) {
  const uint32_t prev = prev_of(reference);
  const uint32_t next = next_of(reference);
  if (prev != none) {
    next_of(prev) = next;
  } else {
    const Run gone = run(reference);
    Space& space = (*spaces_)[gone.device.value];
    Slab& slab = space.slab(space.slab_of(gone.slots.granule));
    KVPOOL_ASSERT(slab.first_run == reference);
    slab.first_run = next;
  }
  if (next != none) prev_of(next) = prev;
}

uint32_t Extents::check_chain(uint32_t cell, BlockId owner, bool second) const {
  uint32_t count = 0;
  for (; cell != none; cell = cells_[cell].next) {
    KVPOOL_ASSERT(cell < fresh_ && cells_[cell].owner == owner.value);
    KVPOOL_ASSERT(cells_[cell].count[0] != 0);
    KVPOOL_ASSERT(++count <= fresh_);
    for (uint32_t i = 0; i < runs_per_cell && cells_[cell].count[i] != 0; ++i) {
      const uint32_t reference = cell * runs_per_cell + i;
      const Run one = run(reference);
      KVPOOL_ASSERT(one.second == second && one.device.value < spaces_->size());
      const Space& space = (*spaces_)[one.device.value];
      const uint32_t prev = cells_[cell].prev_in_slab[i];
      KVPOOL_ASSERT(prev != none ? next_in_slab(prev) == reference
                                 : space.slab(space.slab_of(one.slots.granule)).first_run == reference);
    }
  }
  return count;
}

void Extents::check_slab(const Space& space, DeviceId device, uint32_t number) const {
  const Slab& slab = space.slab(number);
  if (slab.size_class == no_class) {
    KVPOOL_ASSERT(slab.first_run == none);
    return;
  }
  const uint32_t slot = space.slot(slab.size_class);
  const uint32_t begin = number * space.slab_granules();
  std::vector<bool> taken(space.slots_per_slab(slab.size_class), false);
  uint32_t used = 0;
  for (uint32_t r = slab.first_run; r != none; r = next_in_slab(r)) {
    const Run one = run(r);
    KVPOOL_ASSERT(one.device == device && space.slab_of(one.slots.granule) == number);
    KVPOOL_ASSERT(owner(r).value != none);
    KVPOOL_ASSERT((one.slots.granule - begin) % slot == 0);
    const uint32_t first = (one.slots.granule - begin) / slot;
    KVPOOL_ASSERT(first + one.slots.count <= taken.size());
    for (uint32_t i = first; i < first + one.slots.count; ++i) {
      KVPOOL_ASSERT(!taken[i] && space.in_use(number, i));
      taken[i] = true;
      ++used;
    }
  }
  KVPOOL_ASSERT(used == slab.used);
}

void Extents::check_slabs() const {
  for (size_t d = 0; d < spaces_->size(); ++d) {
    const Space& space = (*spaces_)[d];
    space.check();
    for (uint32_t i = 0; i < space.slabs(); ++i) check_slab(space, DeviceId(static_cast<uint8_t>(d)), i);
  }
}

}  // namespace kvpool
