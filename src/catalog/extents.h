// Extents: where blocks' segments lie, as runs of consecutive slots. Four runs fill a cell of one cache line;
// a block's cells are chained. Each run is also in the list of its slab, so that a slab can name its owners.
//
// Runs come in the order of the first segment that each holds: segment s of size class c on device d takes
// the next slot of the latest run with (d, c), or, when that is used up, the next run of the chain. So the
// devices of the segments and the runs give every segment's place.
//
// Thread: its owner's. Memory: taken in open(). Failure: none; room must be there.

#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "base/ids.h"
#include "catalog/array.h"
#include "catalog/blocks.h"
#include "catalog/space.h"

namespace kvpool {

struct Run {
  DeviceId device;
  bool second = false;  // of a second residence
  Slots slots;
};

// A segment that needs, or has, a slot.
struct SegmentSlot {
  DeviceId device;  // no_device: none
  SizeClass size_class;
};

struct Located {
  DeviceId device;
  uint32_t granule;
};

class Extents {
 public:
  // Cells for cells_max x 4 runs. REQUIRES: cells_max < 2^30.
  [[nodiscard]] Status open(uint32_t cells_max, std::vector<Space>* spaces);

  // Takes slots for all segments and returns the chain's first cell. REQUIRES: room for them.
  [[nodiscard]] uint32_t take(BlockId owner, bool second, std::span<const SegmentSlot> segments);
  // Gives the chain's slots and cells back.
  void give(uint32_t cell);
  // REQUIRES: `segments` as in take().
  void locate(uint32_t cell, std::span<const SegmentSlot> segments, std::span<Located> out) const;

  // Calls visit(Run) for every run of the chain; ends early where it returns false.
  template <class Visit>
  void for_each(uint32_t cell, Visit&& visit) const {
    for (; cell != none; cell = cells_[cell].next) {
      for (uint32_t i = 0; i < runs_per_cell && cells_[cell].count[i] != 0; ++i) {
        if (!visit(run(cell * runs_per_cell + i))) return;
      }
    }
  }
  [[nodiscard]] Run run(uint32_t reference) const;
  [[nodiscard]] BlockId owner(uint32_t reference) const {
    return BlockId(cells_[reference / runs_per_cell].owner);
  }
  // The next run in the same slab.
  [[nodiscard]] uint32_t next_in_slab(uint32_t reference) const {
    return cells_[reference / runs_per_cell].next_in_slab[reference % runs_per_cell];
  }
  [[nodiscard]] uint64_t used_bytes() const { return uint64_t{fresh_ - free_count_} * sizeof(Cell); }
  [[nodiscard]] uint32_t used_cells() const { return fresh_ - free_count_; }

  // Asserts that the chain belongs to `owner` and that its runs are in their slabs' lists; returns its cells.
  uint32_t check_chain(uint32_t cell, BlockId owner, bool second) const;
  // Asserts that no two runs of a slab overlap, and that they are all of its used slots.
  void check_slabs() const;

 private:
  static constexpr uint32_t runs_per_cell = 4;
  struct Cell {
    uint32_t next;
    uint32_t owner;
    std::array<uint32_t, runs_per_cell> granule;
    std::array<uint32_t, runs_per_cell> prev_in_slab;
    std::array<uint32_t, runs_per_cell> next_in_slab;
    std::array<uint8_t, runs_per_cell> device;  // bit 7: of a second residence
    std::array<uint8_t, runs_per_cell> count;   // 0: no run
  };
  static_assert(sizeof(Cell) == 64);

  [[nodiscard]] uint32_t take_cell(BlockId owner);
  void enlist(uint32_t reference);
  void delist(uint32_t reference);
  [[nodiscard]] uint32_t& prev_of(uint32_t r) {
    return cells_[r / runs_per_cell].prev_in_slab[r % runs_per_cell];
  }
  [[nodiscard]] uint32_t& next_of(uint32_t r) {
    return cells_[r / runs_per_cell].next_in_slab[r % runs_per_cell];
  }
  void check_slab(const Space& space, DeviceId device, uint32_t number) const;

  HugeArray<Cell> cells_;
  std::vector<Space>* spaces_ = nullptr;
  uint32_t fresh_ = 0;
  uint32_t free_ = none;
  uint32_t free_count_ = 0;
};

}  // namespace kvpool
