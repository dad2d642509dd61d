// Catalog: the global lookup table, key to plan and state; the only truth about the pool. It never does I/O.
//
// Thread: one owner, the engine's. Memory: all of it is taken in open(); nothing allocates after that, but
// add_namespace(). Failure: outcomes are codes; what comes from outside (keys, counts) is checked, what the
// engine promises is asserted.
//
// A block's life:   Free -> Writing -> Ready -> Retired -> Free
//   reserve()  Free -> Writing: extents are taken, nobody can find it
//   commit()   Writing -> Ready: match() finds it
//   abandon()  Writing -> Free
//   evict, remove(), retire()   Ready -> Retired: nobody finds it any more; its extents stay until its pins
//              are zero, then it becomes Free and its generation grows
// A block is pinned by whoever may still touch its bytes. In a chained namespace a block's parent is Ready
// as long as it is: eviction takes leaves, and removal takes the descendants along.

#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/ids.h"
#include "base/range_set.h"
#include "base/result.h"
#include "layout/geometry.h"
#include "layout/placement.h"

namespace kvpool {

// What the catalog must know of a device's data area.
struct CatalogDevice {
  uint64_t size_bytes = 0;
  uint32_t alignment_bytes =
      4096;  // of extents' offsets and lengths; a multiple of 4096 is assumed to pack well
  bool storage = false;
  bool keeps_freed = false;  // Catalog::freed() is kept
  double share = 1;          // its part of what finds no room as planned, relative to the others'
};

struct CatalogOptions {
  std::vector<CatalogDevice> devices;  // 1 to devices_max
  uint32_t blocks_max = 0;             // records
  uint32_t segments_max = 64;          // per block, the most that any namespace will have
  uint32_t residences_max = 1;         // 1, or 2: a segment may have a second residence
};

// Where one segment's bytes are.
struct Place {
  DeviceId device = no_device;
  ByteOffset offset;
};

struct CatalogCounters {
  uint64_t committed_blocks = 0;
  uint64_t evicted_blocks = 0;    // for room
  uint64_t removed_blocks = 0;    // remove()
  uint64_t retired_blocks = 0;    // retire(): bad parts, and their descendants
  uint64_t spilled_segments = 0;  // placed elsewhere than planned
  uint64_t spilled_bytes = 0;
  uint64_t changed_slabs = 0;  // went from one segment size to another
};

struct CatalogUsage {
  uint64_t ready_blocks = 0;
  uint64_t writing_blocks = 0;
  uint64_t retired_blocks = 0;              // waiting for their pins
  uint64_t live_bytes = 0;                  // logical bytes of Writing, Ready and Retired blocks' extents
  std::vector<uint64_t> device_used_bytes;  // extents, padding included
  std::vector<uint64_t> device_size_bytes;
};

class Catalog {
 public:
  [[nodiscard]] static Result<std::unique_ptr<Catalog>> open(const CatalogOptions& options);
  ~Catalog();
  Catalog(const Catalog&) = delete;
  Catalog& operator=(const Catalog&) = delete;

  // Refuses a geometry with too many segments, or with a segment that no slab can hold.
  // flat: blocks have no parents.
  [[nodiscard]] Result<NamespaceId> add_namespace(const Geometry& geometry, bool flat);
  [[nodiscard]] size_t namespaces() const;
  [[nodiscard]] const Geometry& geometry(NamespaceId ns) const;

  // The longest run of Ready blocks from keys[0] on, into out; each becomes the most recently used, parents
  // less recent than children. In a chained namespace keys[0] must be a root or follow `parent` (no_block: a
  // root), and each next one the one before. REQUIRES: out.size() >= keys.size().
  [[nodiscard]] uint32_t match(NamespaceId ns, BlockId parent, std::span<const BlockKey> keys,
                               std::span<BlockId> out);

  // Nothing is placed on a device that is not online, and nothing evicted for its sake. All are at first.
  void set_online(DeviceId device, bool online);

  // A Ready block, or no_block. Changes nothing.
  [[nodiscard]] BlockId find(NamespaceId ns, const BlockKey& key) const;

  void pin(BlockId block);    // REQUIRES: Ready or Writing, or already pinned
  void unpin(BlockId block);  // REQUIRES: pinned

  // Takes a record and extents for a new block: on the planned devices (plan[s] for segment s); where they
  // have no room, on those that have, by their shares; where none has, unpinned leaves are evicted, least
  // recently used first, until the planned devices have room. Returns it in state Writing, with one
  // pin that commit() or abandon() gives back.
  //   busy      the key is being written by someone else
  //   ok        and *existing: the key is Ready; nothing was reserved
  //   rejected  no room, and nothing more can be evicted; or the parent is neither Ready nor Writing;
  //             or, in a chained namespace, the key is Ready behind another parent
  // REQUIRES: plan.size() == segments of the geometry; parent == no_block for flat namespaces and roots.
  struct Reservation {
    Errc code = Errc::ok;
    BlockId block = no_block;
    bool existing = false;
  };
  [[nodiscard]] Reservation reserve(NamespaceId ns, const BlockKey& key, BlockId parent, Phase phase,
                                    uint32_t depth, std::span<const DeviceId> plan);
  // checksums[s] is that of segment s. REQUIRES: Writing; the parent is not Writing any more.
  // If the parent was retired meanwhile the block is abandoned and the result is rejected.
  [[nodiscard]] Errc commit(BlockId block, std::span<const uint64_t> checksums);
  void abandon(BlockId block);  // REQUIRES: Writing

  // Bad bytes: the block and its descendants are gone for good. Harmless on one that is not Ready.
  void retire(BlockId block);
  // The consumer's delete: as retire, counted apart. Returns the number of blocks removed.
  uint32_t remove(NamespaceId ns, const BlockKey& key);

  // Where segment s is, into out[s]: the first residence (residence 0) or the second (residence 1; 2 while it
  // is unpublished, to be written); device == no_device where a segment has none. REQUIRES: pinned or
  // Writing; out.size() >= segments.
  void places(BlockId block, uint32_t residence, std::span<Place> out) const;
  [[nodiscard]] std::span<const uint64_t> checksums(BlockId block) const;
  [[nodiscard]] Phase phase(BlockId block) const;
  [[nodiscard]] uint32_t depth(BlockId block) const;  // 0 for a root
  [[nodiscard]] BlockKey key(BlockId block) const;
  [[nodiscard]] NamespaceId namespace_of(BlockId block) const;
  [[nodiscard]] uint32_t generation(BlockId block) const;
  [[nodiscard]] bool is_ready(BlockId block) const;

  // Second residences (residences_max == 2), a cache of the first: extents on `device` for the segments that
  // wanted[s] names, evicting nothing but other second residences of blocks that nobody pins. False when
  // there is no room for all, when the block has one already or is not Ready, and when nothing is wanted.
  // Stores that need the room make unpinned ones go, oldest first, before they spill or evict. They are found
  // by places(block, 1) only after publish_second(); while unpublished they may be written. Those that
  // abandon_second() names never are, though something may still be written there until drop_second() gives
  // them back. REQUIRES: pinned.
  [[nodiscard]] bool reserve_second(BlockId block, DeviceId device, std::span<const bool> wanted);
  void publish_second(BlockId block);
  void abandon_second(BlockId block);  // REQUIRES: reserved, not published
  void drop_second(BlockId block);

  // Of a device with keeps_freed: what was freed and is not in use again, until the caller takes it out.
  // Nobody touches it: a block's extents are freed when its pins are zero.
  [[nodiscard]] RangeSet& freed(DeviceId device);

  [[nodiscard]] CatalogUsage usage() const;
  [[nodiscard]] const CatalogCounters& counters() const;
  // Bytes that the catalog itself takes for a block record with its extents and index entry, checksums apart,
  // averaged over the Ready blocks.
  [[nodiscard]] double bytes_per_block() const;
  // The longest probe that a lookup of any stored key takes, for benchmarks and tests.
  [[nodiscard]] uint32_t probes_max() const;

  // Walks everything and asserts that it hangs together: links, counts, extents that do not overlap. For
  // tests.
  void check() const;

 private:
  class Impl;
  explicit Catalog(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvpool
