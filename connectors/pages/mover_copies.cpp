// The copies of a PageMover: which parts of a unit are handed to the copier, and what their end means.

#include <algorithm>
#include <array>
#include <utility>

#include "connectors/pages/mover_work.h"

namespace kvpool::pages {

// True: something was handed over. The oldest unit comes first, so that layers are there in their order.
// Where the queue of one way is full, the other goes on.
bool PageMover::hand_over() {
  std::array<Unit*, units_max> oldest_first{};
  std::ranges::transform(units_, oldest_first.begin(), &std::unique_ptr<Unit>::get);
  std::ranges::sort(oldest_first, {}, &Unit::number);
  bool loads_wait = false;
  bool stores_wait = false;
  bool moved = false;
  for (Unit* const unit : oldest_first) {
    if (unit->job == nullptr || unit->handed_over()) continue;
    bool& waits = unit->job->is_load ? loads_wait : stores_wait;
    if (waits) continue;
    const uint32_t before = unit->copies_out;
    waits = !hand_over_unit(*unit);
    moved = moved || unit->copies_out > before || unit->copy_failed;
  }
  return moved;
}

// False: the copier's queue is full.
bool PageMover::hand_over_unit(Unit& unit) {
  const Job& job = *unit.job;
  while (!unit.handed_over()) {
    list_parts(unit);
    const std::optional<size_t> taken =
        options_.copier->submit({.way = job.is_load ? CopyWay::to_pages : CopyWay::to_segments,
                                 .parts = parts_,
                                 .pages = job.pages,
                                 .after = job.after,
                                 .tag = unit.index});
    if (!taken) {
      fail_copies(unit);
      return true;
    }
    if (*taken == 0) return false;
    unit.advance(*taken);
    ++unit.copies_out;
  }
  return true;
}

// All that is ready and was not handed over: segment by segment, as the model needs them. What lies in the
// pool's memory is copied from there.
void PageMover::list_parts(Unit& unit) {
  parts_.clear();
  uint32_t block = unit.next_block;
  for (uint32_t segment = unit.next_segment; segment < unit.ready_segments; ++segment) {
    for (; block < unit.ready_blocks; ++block) {
      const uint32_t layer = unit.layer_first + segment;
      const uint64_t entry = uint64_t{block} * unit.layers + segment;
      const void* const place = unit.job->is_load ? unit.places[entry] : nullptr;
      CopyPart part{.segment = place == nullptr ? slot(unit, block, segment)
                                                : static_cast<std::byte*>(const_cast<void*>(place)),
                    .layer = layer,
                    .pages_first = first_page_of(unit, block, layer),
                    .pages_count = page_count_[layer]};
      const kvpool_check& check = unit.checks[entry];
      // All of its pages are wanted, or none.
      if (place != nullptr && (check.seed != 0 || check.sum != 0) && unit.job->pages[part.pages_first] >= 0) {
        part.check = check;
        unit.is_checked = true;
      }
      parts_.push_back(part);
    }
    block = 0;
  }
}

bool PageMover::take_copies() {
  bool any = false;
  std::array<CopyEnd, 16> ends;
  while (const size_t count = options_.copier->poll(ends)) {
    any = true;
    for (size_t i = 0; i < count; ++i) {
      Unit& unit = *units_[ends[i].tag];
      --unit.copies_out;
      if (ends[i].code == CopyCode::failed) fail_copies(unit);
      if (ends[i].code == CopyCode::wrong_bytes) copy_again(unit);
    }
  }
  return any;
}

// No block of that unit counts, nor any behind it.
void PageMover::fail_copies(Unit& unit) {
  Job& job = *unit.job;
  unit.copy_failed = true;
  unit.drop_copies();
  unit.cancel_wanted = job.is_load && !unit.has_result;
  job.good = std::min(job.good, unit.first);
  stop(job);
}

// Whose fault that is is not known. The pool looks at what it has, and gives up a block that is bad; where it
// finds nothing, and they come wrong again, the way is no good.
void PageMover::copy_again(Unit& unit) {
  Job& job = *unit.job;
  {
    const std::lock_guard lock(mutex_);
    ++stats_.wrong_copies;
  }
  if (unit.is_suspect) return fail_copies(unit);
  if (std::exchange(unit.is_wrong, true)) return;
  unit.drop_copies();
  unit.cancel_wanted = !unit.has_result;
  if (job.stopped) {
    job.good = std::min(job.good, unit.first);
  } else {
    job.put_back({unit.part, unit.first, unit.count, true});
  }
}

// What a unit comes to when its copies have ended.
void PageMover::settle(Unit& unit) {
  if (!unit.copied()) return;
  if (unit.job != nullptr && !unit.job->is_load && !unit.gathered) {
    unit.gathered = true;
    --unit.job->gathering;
  }
  if (unit.job != nullptr && unit.has_result) leave(unit);
  if (unit.job != nullptr || !unit.released) return;
  free_slots_.insert(free_slots_.end(), unit.slots.begin(), unit.slots.end());
  unit.slots.clear();
  free_units_.push_back(unit.index);
}

void PageMover::settle_units() {
  for (const std::unique_ptr<Unit>& unit : units_) {
    if (!unit->slots.empty()) settle(*unit);
  }
}

// Of the pages that its job names: what is not wanted of a block is not moved.
uint64_t PageMover::named_bytes(const Unit& unit, uint32_t blocks) const {
  uint64_t bytes = 0;
  for (uint32_t layer = unit.layer_first; layer < unit.layer_first + unit.layers; ++layer) {
    const uint64_t page_bytes = options_.layers[layer].page_bytes();
    for (uint32_t block = unit.first; block < unit.first + blocks; ++block) {
      const int32_t* const first = &unit.job->pages[first_page_of(unit, block - unit.first, layer)];
      const auto named =
          std::count_if(first, first + page_count_[layer], [](int32_t page) { return page >= 0; });
      bytes += page_bytes * static_cast<uint64_t>(named);
    }
  }
  return bytes;
}

// It counts for its job no longer, though a device may still hold its memory.
void PageMover::leave(Unit& unit) {
  Job& job = *unit.job;
  const bool dropped = unit.copy_failed || unit.is_wrong || (job.is_load && job.cancelled);
  const uint32_t good = dropped ? 0 : unit.good;
  const uint64_t bytes = named_bytes(unit, good);
  unit.job = nullptr;
  --job.units_out;
  // The last of its parts counts the block.
  const uint32_t whole = unit.layer_first + unit.layers == segments() ? good : 0;
  const std::lock_guard lock(mutex_);
  (job.is_load ? stats_.loaded_blocks : stats_.stored_blocks) += whole;
  (job.is_load ? stats_.loaded_bytes : stats_.stored_bytes) += bytes;
}

}  // namespace kvpool::pages
