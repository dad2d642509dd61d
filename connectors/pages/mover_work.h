// What a PageMover has under way: jobs, and the units of blocks that they are cut into. Its thread's alone.

#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <utility>
#include <vector>

#include "connectors/pages/page_mover.h"

namespace kvpool::pages {

// Units are made once; more than these would not make devices faster.
inline constexpr uint32_t units_max = 16;
inline constexpr uint32_t unit_blocks_most = 8;

// A store or a load. Owned by the orders, then by the thread. `stalled` is guarded by the mutex.
struct PageMover::Job {
  bool is_load = false;
  uint64_t id = 0;
  uint64_t chain = 0;
  std::vector<kvpool_key> keys;
  bool has_parent = false;
  kvpool_key parent{};
  kvpool_pin pin = 0;
  uint32_t block_first = 0;
  uint32_t blocks = 0;
  std::vector<int32_t> pages;
  uint64_t after = 0;
  std::vector<LoadPart> parts;  // one at least; without an event, of a store or a load as a whole
  bool timeout_given = false;   // else the deadline is for what has not been started
  std::chrono::steady_clock::time_point deadline;

  uint32_t part = 0;     // of which units are made
  uint32_t started = 0;  // blocks of it that units were made of
  struct Range {
    uint32_t part = 0;
    uint32_t first = 0;
    uint32_t count = 0;
    bool is_suspect = false;  // it came wrong before
  };
  std::vector<Range> again;  // what units were made of, and the pool did not take on; the first last
  uint32_t good = 0;         // no block from here on will be complete
  uint32_t units_out = 0;
  uint32_t gathering = 0;  // of those, that still read pages
  bool hurried = false;    // somebody waits for its pages, or for those of one behind it in its chain
  bool stalled = false;    // it wants more, reads nothing now, and waits for a device
  bool stopped = false;    // no more units
  bool cancelled = false;
  bool gathered = false;  // and told
  uint32_t recorded = 0;  // parts whose event lies behind their copies
  bool ordered = false;   // told, or the copier cannot tell

  [[nodiscard]] uint32_t layer_first(uint32_t of) const { return of == 0 ? 0 : parts[of - 1].layers_end; }
  [[nodiscard]] bool is_last_part() const { return part + 1 == parts.size(); }
  [[nodiscard]] bool all_started() const { return started >= good && (is_last_part() || good == 0); }
  [[nodiscard]] bool wants_more() const { return !stopped && !(all_started() && again.empty()); }
  [[nodiscard]] bool over() const { return !wants_more() && units_out == 0; }
  // What the next unit is made of, or its beginning.
  [[nodiscard]] Range next() {
    if (!again.empty()) return again.back();
    if (started >= good) {
      ++part;
      started = 0;
    }
    return {part, started, good - started, false};
  }
  void take(const Range& next, uint32_t count) {
    if (again.empty()) {
      started += count;
    } else {
      again.back() = {next.part, next.first + count, next.count - count, next.is_suspect};
      if (next.count == count) again.pop_back();
    }
  }
  void put_back(const Range& range) {
    const auto is_behind = [&](const Range& other) {
      return std::pair(other.part, other.first) > std::pair(range.part, range.first);
    };
    again.insert(std::ranges::find_if_not(again, is_behind), range);
    shrink(good);
  }
  // No block from there on will be complete; those before may be.
  void shrink(uint32_t to) {
    good = std::min(good, to);
    for (Range& range : again) range.count = std::min(range.count, good - std::min(good, range.first));
    std::erase_if(again, [](const Range& range) { return range.count == 0; });
  }
};

// Some blocks of a job, or of some of their layers, the request and the copies that move them. A load's
// request comes first, and what of it is complete is copied; a store's copies come first. Segments are
// counted from the first layer's.
struct PageMover::Unit {
  uint32_t index = 0;   // in units_
  Job* job = nullptr;   // until its request has its result, and its copies have ended
  uint64_t number = 0;  // in the order of their starts
  uint32_t part = 0;    // of the job
  uint32_t layer_first = 0;
  uint32_t layers = 0;
  uint32_t first = 0;
  uint32_t count = 0;
  std::vector<uint32_t> slots;      // until the request is released, too; empty: the unit is free
  uint32_t blocks_of_slot = 0;      // several, of a few layers
  uint64_t block_stride_bytes = 0;  // in a slot
  kvpool_ticket ticket = 0;         // 0: not sent
  bool has_result = false;
  bool released = false;
  bool cancel_wanted = false;
  uint32_t good = 0;  // blocks, by the result

  // What may be copied: these segments of these blocks. Handed to the copier were all segments before
  // next_segment, and of that one all blocks before next_block.
  uint32_t ready_segments = 0;
  uint32_t ready_blocks = 0;
  uint32_t next_segment = 0;
  uint32_t next_block = 0;
  uint32_t copies_out = 0;
  bool copy_failed = false;
  bool is_suspect = false;  // its blocks came wrong before
  bool is_wrong = false;    // they did so now, and are wanted again unless the job was stopped
  bool is_checked = false;  // by the copier, in part at least
  bool gathered = false;

  kvpool_key* keys = nullptr;      // in the region
  uint64_t* addresses = nullptr;   // in the region
  const void** places = nullptr;   // in the region
  kvpool_check* checks = nullptr;  // in the region

  [[nodiscard]] bool handed_over() const { return next_segment >= ready_segments; }
  [[nodiscard]] bool copied() const { return handed_over() && copies_out == 0; }
  void set_ready(uint32_t segments, uint32_t blocks) {
    ready_segments = blocks == 0 ? 0 : segments;
    ready_blocks = blocks;
    if (next_block < blocks || next_block == 0) return;
    ++next_segment;
    next_block = 0;
  }
  void advance(size_t parts) {
    const size_t blocks = next_block + parts;
    next_segment += static_cast<uint32_t>(blocks / ready_blocks);
    next_block = static_cast<uint32_t>(blocks % ready_blocks);
  }
  // Of what was not handed over nothing will be.
  void drop_copies() { set_ready(0, 0); }
};

}  // namespace kvpool::pages
