// Space: one device's data area, cut into slabs of equal size. A slab serves slots of one size class at a
// time, with a bitmap of those in use; a slab that is empty serves any class. Offsets count in granules.
//
// The slab size follows from the device's size and the classes known, so that little is lost at the ends of
// slabs and enough slabs exist for every class; it is fixed by the first slot taken.
//
// Thread: its owner's. Memory: taken by open() and add_class() only. Failure: take() REQUIRES room.

#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/assert.h"
#include "base/ids.h"
#include "base/range_set.h"
#include "catalog/array.h"
#include "catalog/blocks.h"

namespace kvpool {

inline constexpr uint32_t granule_bytes_min = 512;

// A size of segments, the same number on all devices.
using SizeClass = Id<struct SizeClassTag, uint16_t>;
inline constexpr SizeClass no_class{UINT16_MAX};

// Consecutive slots of one slab.
struct Slots {
  uint32_t granule = 0;  // where the first one starts
  uint32_t count = 0;
};

struct Slab {
  uint32_t first_run;  // of the list of runs in it (extents.h)
  uint32_t used;       // slots
  uint32_t next;       // in the list of empty slabs, or of its class's slabs with free slots
  uint32_t prev;
  uint32_t hint;           // no slot below this is free
  SizeClass size_class;    // no_class: empty
  SizeClass before_empty;  // the class before it became empty
};

class Space {
 public:
  // keeps_freed: freed() is kept.
  [[nodiscard]] Status open(uint64_t size_bytes, uint32_t alignment_bytes, bool keeps_freed = false);
  // Classes are numbered in the order in which they are added. One that is larger than a slab gets no slots.
  [[nodiscard]] Status add_class(uint64_t bytes);

  [[nodiscard]] uint64_t slot_bytes(SizeClass c) const { return uint64_t{slot(c)} * granule_bytes_; }
  [[nodiscard]] uint32_t slot(SizeClass c) const { return classes_[c.value].slot; }  // in granules
  [[nodiscard]] uint32_t slots_per_slab(SizeClass c) const { return classes_[c.value].per_slab; }
  [[nodiscard]] uint32_t free_slots(SizeClass c) const { return classes_[c.value].free; }
  [[nodiscard]] uint32_t empty_slabs() const { return empty_count_; }
  [[nodiscard]] uint32_t slabs() const { return static_cast<uint32_t>(slabs_.size()); }
  [[nodiscard]] uint32_t slab_granules() const { return slab_granules_; }
  [[nodiscard]] uint64_t slab_bytes() const { return uint64_t{slab_granules_} * granule_bytes_; }
  [[nodiscard]] bool in_use(uint32_t number, uint32_t slot_in_slab) const {
    return ((bitmap(number)[slot_in_slab / 64] >> (slot_in_slab % 64)) & 1) != 0;
  }
  [[nodiscard]] uint64_t size_bytes() const { return size_bytes_; }
  [[nodiscard]] uint64_t used_bytes() const { return used_granules_ * granule_bytes_; }
  [[nodiscard]] uint64_t changed_slabs() const { return changed_slabs_; }
  [[nodiscard]] ByteOffset offset(uint32_t granule) const {
    return ByteOffset(uint64_t{granule} * granule_bytes_);
  }

  // One to `wanted` consecutive slots: as many as a few slabs offer together.
  // REQUIRES: a free slot of the class, or an empty slab and slots_per_slab(c) > 0.
  [[nodiscard]] Slots take(SizeClass c, uint32_t wanted);
  void give(Slots slots);

  // What was given back and not taken again, until its reader takes it out.
  [[nodiscard]] RangeSet& freed() { return freed_; }

  [[nodiscard]] uint32_t slab_of(uint32_t granule) const { return granule / slab_granules_; }
  [[nodiscard]] Slab& slab(uint32_t number) { return slabs_[number]; }
  [[nodiscard]] const Slab& slab(uint32_t number) const { return slabs_[number]; }
  [[nodiscard]] SizeClass class_at(uint32_t granule) const { return slabs_[slab_of(granule)].size_class; }

  // Asserts that bitmaps, counts and lists agree.
  void check() const;

 private:
  struct Class {
    uint64_t bytes = 0;
    uint32_t slot = 0;      // granules
    uint32_t per_slab = 0;  // slots; 0: larger than a slab
    uint32_t free = 0;      // slots, in its slabs
    uint32_t partial = none;
  };
  struct Found {
    uint32_t slab = none;
    uint32_t first = 0;
    uint32_t count = 0;
  };

  [[nodiscard]] Status lay_out();
  [[nodiscard]] uint32_t choose_slab_granules() const;
  [[nodiscard]] uint64_t* bitmap(uint32_t number) { return &bits_[uint64_t{number} * words_per_slab_]; }
  [[nodiscard]] const uint64_t* bitmap(uint32_t number) const {
    return &bits_[uint64_t{number} * words_per_slab_];
  }
  void open_slab(SizeClass c);
  [[nodiscard]] Found longest_free(uint32_t number, uint32_t wanted);
  void push(uint32_t& head, uint32_t number);
  void unlink(uint32_t& head, uint32_t number);
  [[nodiscard]] ByteRange range_of(Slots slots, const Class& size_class) const {
    return {offset(slots.granule).value, uint64_t{slots.count} * size_class.slot * granule_bytes_};
  }
  void check_slab(uint32_t number) const;

  std::vector<Class> classes_;
  std::vector<Slab> slabs_;
  HugeArray<uint64_t> bits_;
  RangeSet freed_{0};
  bool keeps_freed_ = false;
  uint64_t size_bytes_ = 0;
  uint64_t granule_bytes_ = granule_bytes_min;
  uint64_t granules_ = 0;
  uint64_t used_granules_ = 0;
  uint64_t changed_slabs_ = 0;
  uint32_t slab_granules_ = 1;
  uint32_t words_per_slab_ = 0;
  uint32_t empty_ = none;
  uint32_t empty_count_ = 0;
};

}  // namespace kvpool
