// PageMover: carries blocks between an engine's pages and a pool. A store gathers the pages of its blocks
// into pool memory and stores them from there; a load scatters each segment to its pages as soon as that is
// complete, from where it lies in the pool's memory, or from where it was retrieved to. The work is cut into
// units of a few blocks, or of a few layers of more blocks, several at a time; the loads under way take
// turns, and go before the stores, but for one unit. Stores of one chain follow each other.
//
// Threads: it has one of its own, which alone uses its consumer and its copier. All functions below may be
// called from any thread; none blocks but open(), close(), cancel_stores() and those named wait_.
// Pages: a store reads its pages until GATHERED, a load writes its pages until LOADED; then they may be
// reused. After ORDERED a load's may be read and reused by whoever waits for its events. A device that hangs
// keeps a unit's memory, and not its job. Copies that do not end keep both: a job whose event (`after`) never
// comes does not end, nor do those behind it.
//
// Integrity: what the pool leaves in memory is summed by the copier where it can do that, behind the copies.
// What comes wrong is loaded again, looked at by the pool, too; wrong once more, the load ends there.
//
// Failure: each job ends, with how many of its leading blocks were stored or loaded. A load of a geometry
// with window segments loads all of its blocks or none: fewer would want other pages.
//
// Memory: `staging_bytes` of the pool's arena (`buffers`); jobs wait for it in a queue of jobs_max.

#pragma once

#include <array>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "connectors/pages/allowance.h"
#include "connectors/pages/page_copier.h"
#include "connectors/pages/page_layout.h"
#include "kvpool/kvpool.h"

namespace kvpool::pages {

struct MoverOptions {
  kvpool_pool* pool = nullptr;
  uint32_t ns = 0;
  std::vector<Layer> layers;           // [segments]; each segment is one layer's
  BlockPages pages;                    // of a block
  bool windows = false;                // some segments are needed in a run's last block alone
  uint64_t staging_bytes = 0;          // 0: the largest piece of the pool's `buffers` that is left
  std::unique_ptr<PageCopier> copier;  // null: the CPU
};

struct StoreJob {
  uint64_t id = 0;
  uint64_t chain = 0;            // stores of the same chain keep their order
  std::vector<kvpool_key> keys;  // [blocks]
  bool has_parent = false;       // keys[0] follows `parent`
  kvpool_key parent{};
  std::vector<int32_t> pages;  // [blocks][pages of a block]
  uint64_t after = 0;  // pages are read after this event (PageCopier), which stays until the job's end
};

// Some layers of a load, which come before those of the next part.
struct LoadPart {
  uint32_t layers_end = 0;  // they begin where those of the part before end
  uint64_t event = 0;       // recorded behind their copies
};

struct LoadJob {
  uint64_t id = 0;
  kvpool_pin pin = 0;  // held by the caller until LOADED
  uint32_t block_first = 0;
  uint32_t blocks = 0;
  std::vector<int32_t> pages;  // [blocks][pages of a block]; below 0: not wanted
  uint64_t timeout_us = 0;     // 0: wait_us_max in the queue, then the configuration's deadline
  // Pages are written after this event. REQUIRES: it stays until LOADED; so do those of the parts, which are
  // no other job's.
  uint64_t after = 0;
  std::vector<LoadPart> parts;  // of all layers; none: without events, all layers of a block at once
};

enum class EventKind : uint8_t {
  gathered,
  stored,
  ordered,  // of a load in parts: all of it comes, and what waits for a part's event finds that in the pages
  loaded,
};

struct Event {
  uint64_t id = 0;
  EventKind kind = EventKind::gathered;
  uint32_t blocks = 0;  // stored or loaded; fewer of a load that was `ordered`: cancelled, or the GPU failed
};

struct MoverStats {
  uint64_t loaded_blocks = 0, loaded_bytes = 0, failed_loads = 0;
  uint64_t stored_blocks = 0, stored_bytes = 0, failed_stores = 0;
  uint64_t wrong_copies = 0;  // batches of loads whose bytes did not match their checks
};

class PageMover {
 public:
  // Null, and the reason in `error`: no layers, no room for one block, or no copier (no GPU, say). Its last
  // owner closes it; where a device does not let go of its memory within 10 s, it is left behind.
  [[nodiscard]] static std::shared_ptr<PageMover> open(MoverOptions options, kvpool_status* status,
                                                       kvpool_error* error);
  PageMover(const PageMover&) = delete;
  PageMover& operator=(const PageMover&) = delete;
  ~PageMover();

  static constexpr size_t jobs_max = 4096;
  static constexpr uint64_t wait_us_max = 60'000'000;
  // INVALID_ARGUMENT: no blocks, another number of pages, a page that is not there, the id of a job that is
  // under way, an event for a copier that knows none, parts that are not all layers. BUSY: the queue is full.
  [[nodiscard]] kvpool_status store(StoreJob job);
  [[nodiscard]] kvpool_status load(LoadJob job);
  // Ends a load or a store as soon as its copies have ended; its events come as always.
  void cancel(uint64_t id);
  // What has happened since the last call, at most events_max.
  [[nodiscard]] std::vector<Event> take_events();
  // Until that store reads its pages no more; false at the time limit.
  [[nodiscard]] bool wait_gathered(uint64_t id, uint64_t timeout_us);
  // Until no store reads any of these pages, of whatever group; false at the time limit. Below 0, and beyond
  // the last one: no page. Stores that read them now hurry, and are cut short, to the blocks that were begun,
  // if they take too long: patience_us, which is for the engine's step to end and the copies behind it; where
  // they all wait for memory that devices hold, a hundredth of the time, and 0.1 s at once.
  static constexpr uint64_t patience_us = 3'000'000;
  [[nodiscard]] bool wait_unread(std::span<const int32_t> pages, uint64_t timeout_us);
  // Cancels all stores and waits for their end; false at the time limit.
  [[nodiscard]] bool cancel_stores(uint64_t timeout_us);
  // Until that job has ended (stored or loaded); false at the time limit.
  [[nodiscard]] bool wait_ended(uint64_t id, uint64_t timeout_us);
  [[nodiscard]] MoverStats stats() const;
  [[nodiscard]] size_t jobs_under_way() const;

  // Cancels everything and waits for it. TIMED_OUT: a device still holds staging memory, or copies are under
  // way. A GPU's driver then takes its time to let go of the pool's memory, also for what others run there.
  [[nodiscard]] kvpool_status close(uint64_t timeout_us, kvpool_error* error);

  struct Job;  // mover_work.h, for its tests

 private:
  struct Unit;
  enum class Wish : uint8_t { hurry, cut, cancel };

  explicit PageMover(MoverOptions options);
  [[nodiscard]] kvpool_status prepare(kvpool_error* error);
  void make_units(std::byte* region);
  [[nodiscard]] kvpool_status check(const std::vector<int32_t>& pages, size_t blocks, uint64_t after) const;
  [[nodiscard]] bool are_all_layers(const std::vector<LoadPart>& parts) const;
  [[nodiscard]] kvpool_status enqueue(std::unique_ptr<Job> job);

  // The thread's.
  void run();
  [[nodiscard]] bool take_orders();
  void hurry_chains();
  void stop(Job& job);
  void take_completions();
  void finish(Unit& unit, const kvpool_completion& result);
  void look_at_progress();
  void start_units();
  [[nodiscard]] bool start_unit(Job& job, size_t slots_kept);
  void start_stores();
  [[nodiscard]] kvpool_request request_for(const Unit& unit) const;
  [[nodiscard]] kvpool_status send_load(Unit& unit);
  [[nodiscard]] bool can_check(const Unit& unit) const;
  [[nodiscard]] bool send_stores();
  [[nodiscard]] bool send_store(Unit& unit);
  [[nodiscard]] bool is_behind_another(const Unit& unit) const;
  // Copies: what is ready goes to the copier, and what a unit comes to as they end.
  [[nodiscard]] bool hand_over();
  [[nodiscard]] bool hand_over_unit(Unit& unit);
  void list_parts(Unit& unit);
  [[nodiscard]] bool take_copies();
  void fail_copies(Unit& unit);
  void copy_again(Unit& unit);
  void settle(Unit& unit);
  void settle_units();
  void leave(Unit& unit);
  [[nodiscard]] uint64_t named_bytes(const Unit& unit, uint32_t blocks) const;
  void end_jobs(std::deque<std::unique_ptr<Job>>& jobs);
  void end(const Job& job);
  void tell(const Event& event);
  void tell_gathered(const Job& job);
  void order(Job& job);
  [[nodiscard]] bool is_handed_over(const Job& job, uint32_t part) const;
  void note_stalled();
  void sleep();
  [[nodiscard]] bool is_closing() const {
    const std::lock_guard lock(mutex_);
    return closing_;
  }
  [[nodiscard]] uint32_t segments() const { return static_cast<uint32_t>(options_.layers.size()); }
  [[nodiscard]] std::byte* slot(const Unit& unit, uint32_t block, uint32_t segment) const;  // the unit's own
  [[nodiscard]] uint32_t first_page_of(const Unit& unit, uint32_t block,
                                       uint32_t layer) const;  // in its job's

  MoverOptions options_;
  uint32_t block_pages_ = 0;
  std::vector<uint32_t> first_page_;      // [layers] in a block's pages
  std::vector<uint32_t> page_count_;      // [layers]
  std::vector<uint64_t> segment_offset_;  // [layers + 1] in a slot
  uint64_t slot_bytes_ = 0;
  uint32_t unit_blocks_ = 0;
  uint32_t unit_segments_most_ = UINT32_MAX;  // of a request, when the pool has found one too large
  bool knows_events_ = false;
  kvpool_consumer* consumer_ = nullptr;
  std::byte* slots_ = nullptr;
  uint32_t slot_count_ = 0;
  std::vector<uint32_t> free_slots_;
  std::vector<std::unique_ptr<Unit>> units_;  // by user_data; made once
  std::vector<uint32_t> free_units_;
  uint64_t units_started_ = 0;
  std::chrono::steady_clock::time_point refused_until_;  // by the pool, which was busy
  std::vector<CopyPart> parts_;
  std::deque<std::unique_ptr<Job>> loads_;
  std::deque<std::unique_ptr<Job>> stores_;

  // Shared with callers.
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::unique_ptr<Job>> orders_;
  std::vector<std::pair<uint64_t, Wish>> wishes_;  // of jobs
  std::deque<Event> events_;
  std::unordered_map<uint64_t, Job*> gathering_;  // stores that still read their pages
  std::vector<uint32_t> readers_;                 // [pages] stores that still read it
  Allowance device_patience_{std::chrono::milliseconds(100), std::chrono::steady_clock::now()};
  std::unordered_map<uint64_t, bool> under_way_;  // whether it is a load
  MoverStats stats_;
  bool closing_ = false;
  bool ended_ = false;        // the thread is about to go
  std::mutex closing_mutex_;  // of those who close it
  int wake_fd_ = -1;
  std::thread thread_;
};

}  // namespace kvpool::pages
