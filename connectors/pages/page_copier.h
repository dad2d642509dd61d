// PageCopier: who copies between segments in host memory and an engine's pages, for a PageMover. The CPU does
// it at once; a GPU carries out batches that complete later (connectors/pages/gpu).
//
// Thread: open() is called by whoever opens the mover, everything else by the mover's thread, the destructor
// when that has gone. No call blocks but open() and the destructor.
//
// Memory: from submit() until poll() tells its end a batch has the bytes of its segments and pages; the
// arrays that describe it are read during submit() alone.
//
// Failure: open() says what is missing. A batch that was taken on completes exactly once, with a CopyCode.

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "connectors/pages/page_layout.h"
#include "kvpool/kvpool.h"

namespace kvpool::pages {

enum class CopyWay : uint8_t {
  to_pages,     // a load; segments are only read
  to_segments,  // a store; pages are only read
};

// A segment, and the numbers of its pages: `pages_count` of its batch's, from `pages_first` on.
struct CopyPart {
  std::byte* segment = nullptr;
  uint32_t layer = 0;
  uint32_t pages_first = 0;
  uint32_t pages_count = 0;
  std::optional<kvpool_check> check;  // of a load, by a copier that can_check()
};

struct CopyBatch {
  CopyWay way = CopyWay::to_pages;
  std::span<const CopyPart> parts;
  std::span<const int32_t> pages;  // below 0: not there, its place in the segment is passed over
  uint64_t after = 0;              // it begins after this event of the engine's; 0: at once
  uint64_t tag = 0;                // comes back with its end
};

enum class CopyCode : uint8_t {
  good,
  wrong_bytes,  // all was copied, and some part's check is not that of what came
  failed,       // pages hold anything
};

struct CopyEnd {
  uint64_t tag = 0;
  CopyCode code = CopyCode::failed;
};

class PageCopier {
 public:
  PageCopier() = default;
  PageCopier(const PageCopier&) = delete;
  PageCopier& operator=(const PageCopier&) = delete;
  virtual ~PageCopier() = default;

  // Prepares for these layers, for segments of `pages`, and for the pool's memory (kvpool_memory_ranges()),
  // which it must have let go of before the pool is closed.
  [[nodiscard]] virtual kvpool_status open(kvpool_pool* pool, std::span<const Layer> layers,
                                           const BlockPages& pages, kvpool_error* error) = 0;
  [[nodiscard]] virtual bool knows_events() const = 0;
  // Whether it sums what it loads of that layer, where a part has a check and all of its pages.
  [[nodiscard]] virtual bool can_check(uint32_t layer) const = 0;

  // Takes on the first of the parts, as many as it has room for, as one batch; returns how many. 0: its queue
  // is full, to be tried again after a completion. None: it refuses them, now and later.
  [[nodiscard]] virtual std::optional<size_t> submit(const CopyBatch& batch) = 0;
  // Records an event of the engine's, anew, behind all batches of loads. False: it knows none, or has failed.
  [[nodiscard]] virtual bool record(uint64_t event) = 0;
  // What has completed.
  [[nodiscard]] virtual size_t poll(std::span<CopyEnd> out) = 0;

  // Readable when poll() may find something, between prepare_wait() and done_wait(). A sleeper looks again
  // after 20 ms all the same. -1: what was submitted has completed.
  [[nodiscard]] virtual int wait_fd() const = 0;
  virtual void prepare_wait() = 0;
  virtual void done_wait() = 0;
};

// The CPU, on the mover's thread. The layers' bases are what it may read and write.
[[nodiscard]] std::unique_ptr<PageCopier> cpu_copier();

}  // namespace kvpool::pages
