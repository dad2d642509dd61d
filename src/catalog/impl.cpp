#include "catalog/impl.h"

#include <fmt/format.h>

#include <algorithm>

namespace kvpool {

Status Catalog::Impl::open(const CatalogOptions& wanted) {
  options = wanted;
  const auto bad = [](const std::string& what) { return fail(Errc::invalid_argument, "catalog: " + what); };
  if (options.devices.empty() || options.devices.size() > devices_max) {
    return bad(fmt::format("{} devices; 1 to {} are allowed", options.devices.size(), devices_max));
  }
  if (options.blocks_max == 0 || options.blocks_max > (1U << 30)) {
    return bad(fmt::format("{} blocks; 1 to 2^30 are allowed", options.blocks_max));
  }
  if (options.segments_max == 0 || options.segments_max > kvpool::segments_max) {
    return bad(
        fmt::format("{} segments a block; 1 to {} are allowed", options.segments_max, kvpool::segments_max));
  }
  if (options.residences_max != 1 && options.residences_max != 2) {
    return bad(fmt::format("{} residences; 1 and 2 are allowed", options.residences_max));
  }
  // Every segment in a run of its own, at worst; pages that are never touched are never taken.
  const uint64_t cells =
      uint64_t{options.blocks_max} * ((options.segments_max + 3) / 4) * options.residences_max;
  if (cells >= (1ULL << 30)) {
    return bad(
        fmt::format("{} blocks of {} segments are too many", options.blocks_max, options.segments_max));
  }
  for (const CatalogDevice& device : options.devices) {
    Space& space = spaces.emplace_back();
    if (Status opened = space.open(device.size_bytes, device.alignment_bytes, device.keeps_freed); !opened)
      return opened;
    if (!(device.share >= 0)) return bad("a device's share is negative");
    planner.set_share(DeviceId(static_cast<uint8_t>(spaces.size() - 1)), device.share);
  }
  if (options.residences_max == 2) {
    if (Status s = seconds.open(options.blocks_max, options.segments_max); !s) return s;
  }
  devices_stride = (options.segments_max + 1) / 2;
  if (Status s = index.open(options.blocks_max); !s) return s;
  if (Status s = blocks.open(options.blocks_max); !s) return s;
  if (Status s = extents.open(static_cast<uint32_t>(cells), &spaces); !s) return s;
  if (Status s = devices.map(uint64_t{options.blocks_max} * devices_stride, false); !s) return s;
  return checksums.map(uint64_t{options.blocks_max} * options.segments_max, false);
}

Result<NamespaceId> Catalog::Impl::add_namespace(const Geometry& geometry, bool flat) {
  if (Status valid = validate(geometry); !valid) return tl::unexpected(valid.error());
  if (geometry.segments() > options.segments_max) {
    return fail(Errc::invalid_argument,
                fmt::format("geometry '{}': {} segments; this pool allows {}", geometry.name,
                            geometry.segments(), options.segments_max));
  }
  if (shapes.size() > UINT16_MAX) return fail(Errc::too_large, "there are 65536 namespaces already");
  auto added = std::make_unique<Shape>();
  added->geometry = geometry;
  added->flat = flat;
  added->block_bytes = geometry.block_bytes();
  if (Status s = add_classes(*added); !s) return tl::unexpected(s.error());
  shapes.push_back(std::move(added));
  // A new class may have changed the slabs, so the others are looked at again.
  look_what_fits();
  return NamespaceId(static_cast<uint16_t>(shapes.size() - 1));
}

void Catalog::Impl::look_what_fits() {
  for (auto& shape : shapes) shape->fits = planner.fits_empty(spaces, *shape);
}

void Catalog::Impl::set_online(DeviceId device, bool online) {
  planner.set_online(device, online);
  look_what_fits();
}

SizeClass Catalog::Impl::find_class(uint64_t bytes) {
  const auto found = std::ranges::find(class_bytes, bytes);
  return found == class_bytes.end() ? no_class
                                    : SizeClass(static_cast<uint16_t>(found - class_bytes.begin()));
}

Status Catalog::Impl::add_classes(Shape& shape) {
  for (const uint32_t segment : shape.geometry.segment_bytes) {
    const uint64_t bytes = (segment + granule_bytes_min - 1ULL) / granule_bytes_min * granule_bytes_min;
    SizeClass c = find_class(bytes);
    if (c == no_class) {
      if (class_bytes.size() >= no_class.value) return fail(Errc::too_large, "too many segment sizes");
      c = SizeClass(static_cast<uint16_t>(class_bytes.size()));
      class_bytes.push_back(bytes);
      for (Space& space : spaces) {
        if (Status s = space.add_class(bytes); !s) return s;
      }
    }
    const bool held = std::ranges::any_of(spaces, [&](const Space& s) { return s.slots_per_slab(c) > 0; });
    if (!held) {
      const auto largest = std::ranges::max_element(spaces, {}, &Space::slab_bytes);
      return fail(Errc::invalid_argument,
                  fmt::format("geometry '{}': a segment of {} bytes, and the largest slab of this pool's "
                              "devices has {}; use larger devices or smaller segments",
                              shape.geometry.name, segment, largest->slab_bytes()));
    }
    auto kind = std::ranges::find(shape.kinds, c);
    if (kind == shape.kinds.end()) kind = shape.kinds.insert(kind, c);
    shape.kind_of.push_back(static_cast<uint8_t>(kind - shape.kinds.begin()));
  }
  return {};
}

BlockId Catalog::Impl::find(NamespaceId ns, const BlockKey& key) const {
  return index.find(Index::tag(ns, key),
                    [&](BlockId block) { return blocks[block].key == key && blocks[block].ns == ns; });
}

void Catalog::Impl::unpin(BlockId block) {
  blocks.unpin(block);
  if (blocks[block].state == BlockState::retired && blocks[block].pins == 0) release(block);
}

void Catalog::Impl::release(BlockId block) {
  Record& record = blocks[block];
  drop_second(block);
  extents.give(record.cell);
  record.cell = none;
  live_bytes -= shape(record).block_bytes;
  --retired_blocks;
  blocks.give(block);
}

// Nobody finds the block any more. REQUIRES: no links to other blocks.
void Catalog::Impl::hide(BlockId block) {
  Record& record = blocks[block];
  index.erase(Index::tag(record.ns, record.key), block);
  record.state = BlockState::retired;
  ++retired_blocks;
}

uint32_t Catalog::Impl::retire_tree(BlockId root) {
  uint32_t count = 0;
  for (BlockId at = blocks.deepest(root);;) {
    const bool last = at == root;
    const BlockId parent(blocks[at].parent);
    if (blocks[at].listed) blocks.unlist(at);
    blocks.detach(at, last);
    if (blocks[at].state == BlockState::writing) {
      blocks[at].orphan = true;
    } else {
      hide(at);
      --ready_blocks;
      ++count;
      if (blocks[at].pins == 0) release(at);
    }
    if (last) return count;
    at = blocks.deepest(parent);
  }
}

Errc Catalog::Impl::commit(BlockId block, std::span<const uint64_t> sums) {
  Record& record = live(block);
  KVPOOL_ASSERT(record.state == BlockState::writing && sums.size() == shape(record).segments());
  if (record.orphan) {
    abandon(block);
    return Errc::rejected;
  }
  std::ranges::copy(sums, checksums_of(block).begin());
  record.state = BlockState::ready;
  --writing_blocks;
  ++ready_blocks;
  ++counters.committed_blocks;
  blocks.tick();
  blocks.unpin(block);
  return Errc::ok;
}

void Catalog::Impl::abandon(BlockId block) {
  KVPOOL_ASSERT(live(block).state == BlockState::writing);
  blocks.detach(block, true);
  hide(block);
  --writing_blocks;
  unpin(block);
}

void Catalog::Impl::set_device(BlockId block, uint32_t segment, DeviceId device) {
  uint8_t& byte = devices[uint64_t{block.value} * devices_stride + segment / 2];
  const uint32_t shift = segment % 2 * 4;
  byte = static_cast<uint8_t>((byte & ~(0xFU << shift)) | (uint32_t{device.value} << shift));
}

DeviceId Catalog::Impl::device_of(BlockId block, uint32_t segment) const {
  const uint8_t byte = devices[uint64_t{block.value} * devices_stride + segment / 2];
  return DeviceId(static_cast<uint8_t>((byte >> (segment % 2 * 4)) & 0xF));
}

std::span<const SegmentSlot> Catalog::Impl::segments_of(BlockId block, Segments& out) const {
  const Shape& its = shape(blocks[block]);
  for (uint32_t s = 0; s < its.segments(); ++s) {
    out[s] = {.device = device_of(block, s), .size_class = its.size_class(s)};
  }
  return {out.data(), its.segments()};
}

void Catalog::Impl::places(BlockId block, uint32_t residence, std::span<Place> out) const {
  const Record& record = live(block);
  KVPOOL_ASSERT(out.size() >= shape(record).segments() && residence < 3);
  if (residence > 0) {
    return second_places(block, residence == 1 ? SecondState::published : SecondState::reserved, out);
  }
  Segments segments;
  std::array<Located, kvpool::segments_max> located;
  const auto wanted = segments_of(block, segments);
  extents.locate(record.cell, wanted, located);
  for (size_t s = 0; s < wanted.size(); ++s) {
    out[s] = {.device = located[s].device,
              .offset = spaces[located[s].device.value].offset(located[s].granule)};
  }
}

CatalogUsage Catalog::Impl::usage() const {
  CatalogUsage usage{.ready_blocks = ready_blocks,
                     .writing_blocks = writing_blocks,
                     .retired_blocks = retired_blocks,
                     .live_bytes = live_bytes,
                     .device_used_bytes = {},
                     .device_size_bytes = {}};
  for (const Space& space : spaces) {
    usage.device_used_bytes.push_back(space.used_bytes());
    usage.device_size_bytes.push_back(space.size_bytes());
  }
  return usage;
}

const CatalogCounters& Catalog::Impl::count() {
  counters.changed_slabs = 0;
  for (const Space& space : spaces) counters.changed_slabs += space.changed_slabs();
  return counters;
}

double Catalog::Impl::bytes_per_block() const {
  const double each = sizeof(Record) + devices_stride + static_cast<double>(seconds.bytes_per_block()) +
                      static_cast<double>(index.bytes()) / static_cast<double>(options.blocks_max);
  const double cells = static_cast<double>(extents.used_bytes());
  return ready_blocks == 0 ? each : each + cells / static_cast<double>(ready_blocks);
}

}  // namespace kvpool
