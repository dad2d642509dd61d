// Catalog::Impl: the state behind the catalog, for its own .cpp files only.

#pragma once

#include <array>
#include <memory>
#include <vector>

#include "catalog/array.h"
#include "catalog/blocks.h"
#include "catalog/catalog.h"
#include "catalog/extents.h"
#include "catalog/index.h"
#include "catalog/planner.h"
#include "catalog/seconds.h"
#include "catalog/space.h"

namespace kvpool {

class Catalog::Impl {
 public:
  [[nodiscard]] Status open(const CatalogOptions& wanted);
  [[nodiscard]] Result<NamespaceId> add_namespace(const Geometry& geometry, bool flat);
  void set_online(DeviceId device, bool online);
  void look_what_fits();

  [[nodiscard]] uint32_t match(NamespaceId ns, BlockId parent, std::span<const BlockKey> keys,
                               std::span<BlockId> out);
  [[nodiscard]] BlockId find(NamespaceId ns, const BlockKey& key) const;  // Ready or Writing
  void unpin(BlockId block);

  [[nodiscard]] Reservation reserve(NamespaceId ns, const BlockKey& key, BlockId parent, Phase phase,
                                    uint32_t depth, std::span<const DeviceId> plan);
  [[nodiscard]] Errc commit(BlockId block, std::span<const uint64_t> checksums);
  void abandon(BlockId block);
  // Takes the block and its descendants out of sight, and frees those that nobody pins; returns how many
  // Ready ones there were. REQUIRES: Ready.
  uint32_t retire_tree(BlockId block);

  [[nodiscard]] bool reserve_second(BlockId block, DeviceId device, std::span<const bool> wanted);
  void drop_second(BlockId block);

  void places(BlockId block, uint32_t residence, std::span<Place> out) const;
  [[nodiscard]] RangeSet& freed(DeviceId device) { return spaces[device.value].freed(); }
  [[nodiscard]] CatalogUsage usage() const;
  [[nodiscard]] const CatalogCounters& count();
  [[nodiscard]] double bytes_per_block() const;
  void check() const;

  Record& live(BlockId block) {
    KVPOOL_ASSERT(blocks.valid(block) && blocks[block].state != BlockState::free);
    return blocks[block];
  }
  const Record& live(BlockId block) const { return const_cast<Impl*>(this)->live(block); }
  const Shape& shape(const Record& record) const { return *shapes[record.ns.value]; }
  std::span<uint64_t> checksums_of(BlockId block) {
    return {&checksums[uint64_t{block.value} * options.segments_max], shape(live(block)).segments()};
  }

  CatalogOptions options;
  std::vector<std::unique_ptr<Shape>> shapes;  // by namespace
  Index index;
  Blocks blocks;
  CatalogCounters counters;

  HugeArray<uint64_t> checksums;  // segments_max a block
  Seconds seconds;

 private:
  struct Group;  // of a match's keys
  void ask_for_index(NamespaceId ns, std::span<const BlockKey> keys, size_t first, Group& group) const;
  void ask_for_records(Group& group) const;
  // Appends the group's blocks to `out` as far as they continue the run; returns how many. `before`: the
  // last block of the run so far.
  [[nodiscard]] uint32_t compare(NamespaceId ns, const Group& group, std::span<const BlockKey> keys,
                                 uint32_t& before, std::span<BlockId> out) const;

  using Segments = std::array<SegmentSlot, segments_max>;

  [[nodiscard]] SizeClass find_class(uint64_t bytes);
  [[nodiscard]] Status add_classes(Shape& shape);

  // Frees what a block holds. REQUIRES: Retired, no pins.
  void release(BlockId block);
  void hide(BlockId block);

  // Finds room for a block, evicting where it must: `chosen` says where. False: there is none.
  [[nodiscard]] bool find_room(const Shape& shape, std::span<const DeviceId> plan, uint64_t first_point,
                               std::span<SegmentSlot> chosen);
  [[nodiscard]] BlockId take_record();
  // Evicts something that helps, at last, against the shortage. False: nothing can be evicted.
  [[nodiscard]] bool make_room(SegmentSlot shortage);
  void evict(BlockId block);
  // The slab on the device, of another class than the shortage's, that the block would leave emptiest, or
  // none; none also if the block has slots of the right class there.
  [[nodiscard]] uint32_t slab_to_change(BlockId block, SegmentSlot shortage) const;
  [[nodiscard]] bool empty_slab(Space& space, uint32_t number);
  [[nodiscard]] bool mark_evictable(BlockId root);
  void unmark(BlockId root);

  [[nodiscard]] std::span<const SegmentSlot> second_segments_of(BlockId block, Segments& out) const;
  void second_places(BlockId block, SecondState wanted, std::span<Place> out) const;
  // Drops the oldest second residence on the device that nobody pins. False: none was found.
  bool drop_oldest_second(DeviceId device);
  // The same against a shortage; anywhere: on other devices too.
  bool drop_seconds_for(SegmentSlot shortage, bool anywhere);

  void set_device(BlockId block, uint32_t segment, DeviceId device);
  [[nodiscard]] DeviceId device_of(BlockId block, uint32_t segment) const;
  std::span<const SegmentSlot> segments_of(BlockId block, Segments& out) const;
  void check_block(BlockId block) const;
  void check_segments(BlockId block, uint32_t cell, std::span<const SegmentSlot> wanted) const;
  void check_index() const;

  std::vector<Space> spaces;
  std::vector<uint64_t> class_bytes;  // by class
  Extents extents;
  Planner planner;
  HugeArray<uint8_t> devices;  // of each block's segments, four bits each
  uint32_t devices_stride = 0;
  uint64_t ready_blocks = 0;
  uint64_t writing_blocks = 0;
  uint64_t retired_blocks = 0;
  uint64_t live_bytes = 0;
};

}  // namespace kvpool
