// Second residences: copies on one device that may go at any time, as long as nobody pins their block.

#include <algorithm>

#include "catalog/impl.h"

namespace kvpool {
namespace {

// How many pinned ones are passed over in the search for one to drop; each becomes the newest.
constexpr uint32_t pinned_passed_max = 64;

}  // namespace

std::span<const SegmentSlot> Catalog::Impl::second_segments_of(BlockId block, Segments& out) const {
  const Shape& its = shape(blocks[block]);
  for (uint32_t s = 0; s < its.segments(); ++s) {
    out[s] = {.device = seconds.has(block, s) ? seconds[block].device : no_device,
              .size_class = its.size_class(s)};
  }
  return {out.data(), its.segments()};
}

bool Catalog::Impl::reserve_second(BlockId block, DeviceId device, std::span<const bool> wanted) {
  const Record& record = live(block);
  const Shape& its = shape(record);
  KVPOOL_ASSERT(record.pins > 0 && device.value < spaces.size() && wanted.size() == its.segments());
  if (!seconds.opened() || record.state != BlockState::ready) return false;
  if (seconds.state(block) != SecondState::absent || std::ranges::count(wanted, true) == 0) return false;
  while (!planner.fits_on(spaces, its, device, wanted)) {
    if (!drop_oldest_second(device)) return false;
  }
  seconds.prepare(block, device);
  for (uint32_t s = 0; s < wanted.size(); ++s) {
    if (wanted[s]) seconds.want(block, s);
  }
  Segments segments;
  seconds.add(block, extents.take(block, true, second_segments_of(block, segments)));
  return true;
}

void Catalog::Impl::drop_second(BlockId block) {
  if (seconds.state(block) != SecondState::absent) extents.give(seconds.remove(block));
}

bool Catalog::Impl::drop_oldest_second(DeviceId device) {
  if (!seconds.opened()) return false;
  for (uint32_t passed = 0; passed < pinned_passed_max; ++passed) {
    const BlockId block = seconds.oldest(device);
    if (block == no_block) return false;
    if (blocks[block].pins == 0) {
      drop_second(block);
      return true;
    }
    seconds.renew(block);
  }
  return false;
}

bool Catalog::Impl::drop_seconds_for(SegmentSlot shortage, bool anywhere) {
  if (drop_oldest_second(shortage.device)) return true;
  for (uint8_t d = 0; anywhere && d < spaces.size(); ++d) {
    if (drop_oldest_second(DeviceId(d))) return true;
  }
  return false;
}

void Catalog::Impl::second_places(BlockId block, SecondState wanted, std::span<Place> out) const {
  std::ranges::fill(out, Place{});
  if (seconds.state(block) != wanted) return;
  Segments segments;
  const auto held = second_segments_of(block, segments);
  std::array<Located, kvpool::segments_max> located;
  extents.locate(seconds[block].cell, held, located);
  for (size_t s = 0; s < held.size(); ++s) {
    if (located[s].device == no_device) continue;
    out[s] = {.device = located[s].device,
              .offset = spaces[located[s].device.value].offset(located[s].granule)};
  }
}

}  // namespace kvpool
