#include "catalog/space.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

namespace kvpool {
namespace {

constexpr uint64_t slab_bytes_min = 4ULL << 20;
constexpr uint64_t slab_bytes_max = 64ULL << 20;
// A slab of this many slots loses less than 4% at its end.
constexpr uint64_t slots_wanted = 24;
// How many slabs take() looks into for a run that is long enough.
constexpr uint32_t slabs_tried_max = 4;
// How many numbers of slabs choose_slab_granules() compares.
constexpr uint64_t choices_max = 64;
constexpr size_t freed_ranges_max = 1024;

bool is_used(const uint64_t* bits, uint32_t i) { return ((bits[i / 64] >> (i % 64)) & 1) != 0; }

// The first i >= `from` below `end` whose bit is `value`, or `end`.
uint32_t find_bit(const uint64_t* bits, uint32_t from, uint32_t end, bool value) {
  while (from < end) {
    const uint64_t word = (value ? bits[from / 64] : ~bits[from / 64]) >> (from % 64);
    if (word != 0) return std::min(end, from + static_cast<uint32_t>(std::countr_zero(word)));
    from = (from / 64 + 1) * 64;
  }
  return end;
}

}  // namespace

Status Space::open(uint64_t size_bytes, uint32_t alignment_bytes, bool keeps_freed) {
  if (!std::has_single_bit(alignment_bytes)) {
    return fail(Errc::invalid_argument,
                fmt::format("a device's alignment must be a power of two, not {}", alignment_bytes));
  }
  size_bytes_ = size_bytes;
  keeps_freed_ = keeps_freed;
  if (keeps_freed) freed_ = RangeSet(freed_ranges_max);
  granule_bytes_ = std::max(alignment_bytes, granule_bytes_min);
  while (size_bytes / granule_bytes_ >= none) granule_bytes_ *= 2;
  granules_ = size_bytes / granule_bytes_;
  if (granules_ == 0) {
    return fail(Errc::invalid_argument, fmt::format("a device of {} bytes holds nothing", size_bytes));
  }
  return lay_out();
}

Status Space::add_class(uint64_t bytes) {
  const uint64_t slot = (bytes + granule_bytes_ - 1) / granule_bytes_;
  classes_.push_back({.bytes = bytes, .slot = static_cast<uint32_t>(std::min<uint64_t>(slot, none))});
  if (used_granules_ == 0) return lay_out();
  classes_.back().per_slab = slab_granules_ / classes_.back().slot;
  return {};
}

// The smallest sensible slab, rounded up so that the slabs fill the device, or up to twice that where the
// worst of the classes then loses less.
uint32_t Space::choose_slab_granules() const {
  uint64_t largest = 1;
  uint64_t count = 1;
  for (const Class& c : classes_) {
    if (c.slot > granules_) continue;
    largest = std::max<uint64_t>(largest, c.slot);
    ++count;
  }
  const uint64_t floor = std::min(slab_bytes_min, size_bytes_ / 16) / granule_bytes_;
  uint64_t wanted = std::clamp(granules_ / 128, floor, slab_bytes_max / granule_bytes_);
  wanted = std::max(wanted, std::min(slots_wanted * largest, granules_ / 8));
  wanted = std::min(wanted, granules_ / (4 * count));
  wanted = std::max(wanted, largest);
  const uint64_t most = granules_ / wanted;
  const uint64_t fewest = std::max({uint64_t{1}, most / 2, most > choices_max ? most - choices_max : 0});
  uint64_t best = most;
  uint64_t best_usable = 0;
  for (uint64_t slabs = most; slabs >= fewest; --slabs) {
    const uint64_t granules = granules_ / slabs;
    uint64_t usable = slabs * granules;
    for (const Class& c : classes_) {
      if (c.slot <= granules_) usable = std::min(usable, slabs * (granules / c.slot) * c.slot);
    }
    if (usable > best_usable) {
      best = slabs;
      best_usable = usable;
    }
  }
  return static_cast<uint32_t>(granules_ / best);
}

Status Space::lay_out() {
  slab_granules_ = choose_slab_granules();
  const uint64_t slabs = granules_ / slab_granules_;
  words_per_slab_ = (slab_granules_ + 63) / 64;
  if (Status mapped = bits_.map(slabs * words_per_slab_, false); !mapped) return mapped;
  slabs_.assign(slabs, Slab{.first_run = none,
                            .used = 0,
                            .next = none,
                            .prev = none,
                            .hint = 0,
                            .size_class = no_class,
                            .before_empty = no_class});
  for (Class& c : classes_) c.per_slab = slab_granules_ / c.slot;
  empty_ = none;
  empty_count_ = 0;
  for (uint32_t i = static_cast<uint32_t>(slabs); i-- > 0;) push(empty_, i);
  empty_count_ = static_cast<uint32_t>(slabs);
  return {};
}

void Space::push(uint32_t& head, uint32_t number) {
  Slab& slab = slabs_[number];
  slab.prev = none;
  slab.next = head;
  if (head != none) slabs_[head].prev = number;
  head = number;
}

void Space::unlink(uint32_t& head, uint32_t number) {
  Slab& slab = slabs_[number];
  if (slab.prev != none) {
    slabs_[slab.prev].next = slab.next;
  } else {
    head = slab.next;
  }
  if (slab.next != none) slabs_[slab.next].prev = slab.prev;
  slab.prev = slab.next = none;
}

// Makes an empty slab serve the class.
void Space::open_slab(SizeClass c) {
  KVPOOL_ASSERT(empty_ != none && classes_[c.value].per_slab > 0);
  const uint32_t number = empty_;
  unlink(empty_, number);
  --empty_count_;
  Slab& slab = slabs_[number];
  if (slab.before_empty != no_class && slab.before_empty != c) ++changed_slabs_;
  slab.size_class = c;
  slab.hint = 0;
  classes_[c.value].free += classes_[c.value].per_slab;
  push(classes_[c.value].partial, number);
}

// The first run of `wanted` free slots, or the longest there is.
Space::Found Space::longest_free(uint32_t number, uint32_t wanted) {
  Slab& slab = slabs_[number];
  const uint64_t* bits = bitmap(number);
  const uint32_t end = classes_[slab.size_class.value].per_slab;
  slab.hint = find_bit(bits, slab.hint, end, false);
  Found best{.slab = number, .first = 0, .count = 0};
  for (uint32_t first = slab.hint; first < end && best.count < wanted;) {
    const uint32_t last = find_bit(bits, first, std::min(end, first + wanted), true);
    if (last - first > best.count) best = {.slab = number, .first = first, .count = last - first};
    first = find_bit(bits, last, end, false);
  }
  return best;
}

Slots Space::take(SizeClass c, uint32_t wanted) {
  Class& size_class = classes_[c.value];
  Found best;
  uint32_t number = size_class.partial;
  for (uint32_t tried = 0; number != none && tried < slabs_tried_max && best.count < wanted; ++tried) {
    const Found found = longest_free(number, wanted);
    if (found.count > best.count) best = found;
    number = slabs_[number].next;
  }
  if (best.count == 0) {
    open_slab(c);
    best = longest_free(size_class.partial, wanted);
  }
  KVPOOL_ASSERT(best.count > 0 && best.count <= wanted);
  uint64_t* bits = bitmap(best.slab);
  for (uint32_t i = best.first; i < best.first + best.count; ++i) bits[i / 64] |= 1ULL << (i % 64);
  Slab& slab = slabs_[best.slab];
  slab.used += best.count;
  size_class.free -= best.count;
  used_granules_ += uint64_t{best.count} * size_class.slot;
  if (slab.used == size_class.per_slab) unlink(size_class.partial, best.slab);
  const Slots taken{.granule = best.slab * slab_granules_ + best.first * size_class.slot,
                    .count = best.count};
  if (keeps_freed_) freed_.cut(range_of(taken, size_class));
  return taken;
}

void Space::give(Slots slots) {
  const uint32_t number = slab_of(slots.granule);
  Slab& slab = slabs_[number];
  Class& size_class = classes_[slab.size_class.value];
  const uint32_t first = (slots.granule - number * slab_granules_) / size_class.slot;
  uint64_t* bits = bitmap(number);
  for (uint32_t i = first; i < first + slots.count; ++i) {
    KVPOOL_ASSERT(is_used(bits, i));
    bits[i / 64] &= ~(1ULL << (i % 64));
  }
  if (keeps_freed_) freed_.add(range_of(slots, size_class));
  if (slab.used == size_class.per_slab) push(size_class.partial, number);
  slab.used -= slots.count;
  slab.hint = std::min(slab.hint, first);
  size_class.free += slots.count;
  used_granules_ -= uint64_t{slots.count} * size_class.slot;
  if (slab.used > 0) return;
  unlink(size_class.partial, number);
  size_class.free -= size_class.per_slab;
  slab.before_empty = slab.size_class;
  slab.size_class = no_class;
  push(empty_, number);
  ++empty_count_;
}

void Space::check_slab(uint32_t number) const {
  const Slab& slab = slabs_[number];
  const uint64_t* bits = bitmap(number);
  uint32_t used = 0;
  for (uint32_t i = 0; i < words_per_slab_; ++i) used += static_cast<uint32_t>(std::popcount(bits[i]));
  KVPOOL_ASSERT(used == slab.used);
  if (slab.size_class == no_class) {
    KVPOOL_ASSERT(used == 0);
    return;
  }
  const uint32_t slots = classes_[slab.size_class.value].per_slab;
  KVPOOL_ASSERT(used > 0 && used <= slots);
  KVPOOL_ASSERT(find_bit(bits, slots, words_per_slab_ * 64, true) == words_per_slab_ * 64);
  KVPOOL_ASSERT(find_bit(bits, 0, slots, false) >= slab.hint);
}

void Space::check() const {
  std::vector<uint32_t> free(classes_.size(), 0);
  std::vector<uint32_t> partial(classes_.size(), 0);
  uint64_t used = 0;
  uint32_t empty = 0;
  for (uint32_t i = 0; i < slabs(); ++i) {
    check_slab(i);
    const Slab& slab = slabs_[i];
    if (slab.size_class == no_class) {
      ++empty;
      continue;
    }
    const Class& c = classes_[slab.size_class.value];
    free[slab.size_class.value] += c.per_slab - slab.used;
    partial[slab.size_class.value] += slab.used < c.per_slab ? 1 : 0;
    used += uint64_t{slab.used} * c.slot;
  }
  KVPOOL_ASSERT(used == used_granules_ && empty == empty_count_);
  for (size_t c = 0; c < classes_.size(); ++c) {
    KVPOOL_ASSERT(free[c] == classes_[c].free);
    for (uint32_t i = classes_[c].partial; i != none; i = slabs_[i].next) {
      KVPOOL_ASSERT(slabs_[i].size_class.value == c && slabs_[i].used < classes_[c].per_slab);
      KVPOOL_ASSERT(partial[c]-- > 0);
    }
    KVPOOL_ASSERT(partial[c] == 0);
  }
  for (uint32_t i = empty_; i != none; i = slabs_[i].next) {
    KVPOOL_ASSERT(slabs_[i].size_class == no_class && empty-- > 0);
  }
  KVPOOL_ASSERT(empty == 0);
}

}  // namespace kvpool
