// What a PageMover has under way: jobs, and the units of blocks that they are cut into. Its thread's alone.

#pragma once

#include <chrono>
#include <cstdint>
#include <vector>

#include "connectors/pages/page_mover.h"

namespace kvpool::pages {

// Units are made once; more than these would not make devices faster.
inline constexpr uint32_t units_max = 16;
inline constexpr uint32_t unit_blocks_most = 8;

// A store or a load. Owned by the orders, then by the thread.
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
  bool timeout_given = false;  // else the deadline is for what has not been started
  std::chrono::steady_clock::time_point deadline;

  uint32_t started = 0;  // blocks that units were made of
  struct Range {
    uint32_t first = 0;
    uint32_t count = 0;
  };
  std::vector<Range> again;  // of those, what the pool had no room to take on
  uint32_t good = 0;         // no block from here on will be complete
  uint32_t units_out = 0;
  bool stopped = false;  // no more units
  bool cancelled = false;
  bool gathered = false;  // and told

  [[nodiscard]] bool wants_more() const { return !stopped && (started < blocks || !again.empty()); }
  [[nodiscard]] bool over() const { return !wants_more() && units_out == 0; }
};

// Some blocks of a job, and the request that moves them.
struct PageMover::Unit {
  Job* job = nullptr;
  uint32_t first = 0;
  uint32_t count = 0;
  std::vector<uint32_t> slots;
  kvpool_ticket ticket = 0;
  uint32_t scattered = 0;  // segments
  bool has_result = false;
  bool cancel_wanted = false;
  kvpool_key* keys = nullptr;     // in the region
  uint64_t* addresses = nullptr;  // in the region
};

}  // namespace kvpool::pages
