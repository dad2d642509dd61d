// Engine: the state machines of store, retrieve and stage; admission, scheduling, deadlines. A deterministic
// function of its inputs: messages from consumers, completions from devices and transfers, the clock.
//
// Thread: one owner; every method is called on it. step() never blocks and never allocates; attach(), close()
// and add_namespace() are administration and may.
// Failure: a request that fails gets a code in its completion. What comes from consumers is checked; what
// devices and transfers promise is asserted.
//
// A ticket ends twice: its result, by its deadline at the latest, and its release, once nothing in the pool
// touches the consumer's memory any more.

#pragma once

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "catalog/catalog.h"
#include "engine/device_queue.h"
#include "engine/options.h"
#include "engine/pins.h"
#include "engine/port.h"
#include "engine/ticket.h"
#include "io/device.h"
#include "layout/placement.h"
#include "xfer/transfer.h"

namespace kvpool {

struct EngineCounters {
  uint64_t stored_blocks = 0;
  uint64_t stored_bytes = 0;
  uint64_t retrieved_blocks = 0;
  uint64_t retrieved_bytes = 0;
  uint64_t busy_requests = 0;    // refused: no ticket or no pin was free
  uint64_t rejected_blocks = 0;  // of stores, for want of room or of a parent
  uint64_t timed_out_requests = 0;
  uint64_t cancelled_requests = 0;
  uint64_t invalid_requests = 0;
  uint64_t io_errors = 0;
  uint64_t short_ios = 0;
  uint64_t checksum_errors = 0;
  uint64_t stalled_tickets = 0;  // named by the watchdog
  uint64_t bounced_bytes = 0;    // copied between a drive's buffer and a consumer's: 0 where those are one
};

class Engine {
 public:
  struct Wiring {
    const Clock* clock = nullptr;
    Catalog* catalog = nullptr;
    Transfer* transfer = nullptr;
    std::vector<Device*> devices;               // in the catalog's order
    std::vector<std::span<std::byte>> staging;  // one a device; empty for in-place devices
  };
  // What the catalog is to know of them. Extents are of one alignment on all, the largest: what a drive reads
  // in its own units can be staged in any of them.
  [[nodiscard]] static std::vector<CatalogDevice> catalog_devices(std::span<Device* const> devices,
                                                                  std::span<const double> shares);

  // The catalog must have the wiring's devices, with the shares of the options where it may be full.
  Engine(const Wiring& wiring, EngineOptions options);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // One round: messages, completions, submissions, deadlines. True if anything happened.
  bool step();
  // The earliest time at which step() may have something to do that no file descriptor announces.
  [[nodiscard]] Nanos next_event_time() const;
  // Whether a consumer's message waits: looked at once more before sleeping.
  [[nodiscard]] bool has_input() const;
  // Whether any ticket is under way.
  [[nodiscard]] bool is_idle() const { return table_.under_way() == 0; }

  // The port must live until drained is set. busy: consumers_max are attached.
  [[nodiscard]] Errc attach(ConsumerPort& port);
  // Cancels its tickets and drops its pins; port.drained is set, and the port forgotten, once all are
  // released.
  void close(ConsumerPort& port);
  // Every ticket that is under way: what it is, how long without progress, which devices hold parts of it.
  [[nodiscard]] std::string outstanding();

  // Refuses what the limits, the staging memory or the devices cannot carry.
  [[nodiscard]] Result<NamespaceId> add_namespace(const Geometry& geometry, bool flat);

  [[nodiscard]] const EngineCounters& counters() const { return counters_; }
  [[nodiscard]] DeviceCounters device_counters(DeviceId device) const;
  [[nodiscard]] uint32_t tickets_under_way() const { return table_.under_way(); }
  [[nodiscard]] const Pins& pins() const { return pins_; }
  [[nodiscard]] const Placement& placement() const { return placement_; }
  [[nodiscard]] const Profile& profile() const { return options_.profile; }
  // Staging bytes in use, over all devices: 0 when idle.
  [[nodiscard]] uint64_t staging_used_bytes() const;

 private:
  // ---- admission (admit.cpp)
  bool take_submissions();
  void admit(ConsumerPort& port, const Submission& message);
  Ticket* open_ticket(ConsumerPort& port, const Submission& message);
  [[nodiscard]] Errc check(const ConsumerPort& port, const Submission& message) const;
  [[nodiscard]] std::span<const BlockKey> keys_of(const ConsumerPort& port, const Submission& message);
  // The pin that a message names; null where that is none, or the blocks asked for are not all of its run.
  [[nodiscard]] PinRef find_pinned(const Submission& message);
  [[nodiscard]] Errc find_parent(const Submission& message, BlockId& parent) const;
  void admit_match(ConsumerPort& port, const Submission& message);
  void admit_estimate(ConsumerPort& port, const Submission& message);
  void admit_remove(ConsumerPort& port, const Submission& message);
  void admit_unpin(ConsumerPort& port, const Submission& message);
  void admit_cancel(ConsumerPort& port, const Submission& message);
  void answer(ConsumerPort& port, const Submission& message, Completion completion);
  // REQUIRES: an entry for each device.
  [[nodiscard]] Nanos time_for(std::span<const double> device_bytes) const;
  [[nodiscard]] Nanos estimate(uint64_t run_bytes) const;
  [[nodiscard]] Nanos estimate_exactly(const PinRef& pin);

  // ---- ends of a ticket (engine.cpp)
  void finish(Ticket& ticket, Errc code);
  [[nodiscard]] uint32_t complete_columns(const Ticket& ticket) const;
  void release(Ticket& ticket);
  void post(ConsumerPort& port, const Completion& completion);
  [[nodiscard]] std::string describe(const Ticket& ticket);
  bool expire();
  void watch();
  void progressed(Ticket& ticket);
  [[nodiscard]] Nanos next_due() const;
  void cut(Ticket& ticket, uint32_t block, Errc code);
  [[nodiscard]] bool is_quiet(const Ticket& ticket) const;
  void count_failure(Errc code);

  // ---- what happens to a part (parts.cpp)
  bool pump(DeviceQueue& queue);
  bool issue_next(DeviceQueue& queue);
  bool issue_read(DeviceQueue& queue);
  bool issue_write(DeviceQueue& queue);
  bool issue_prepared(DeviceQueue& queue);
  [[nodiscard]] bool write_wants_room(DeviceQueue& queue);
  void arrived(DeviceQueue& queue, PartHandle handle);
  void transfer(PartHandle handle);
  [[nodiscard]] DeviceQueue* next_to_transfer();
  bool flush_transfers();
  [[nodiscard]] TransferJob job_for(PartHandle handle, std::byte* consumer);
  void transferred(const TransferCompletion& completion);
  void read_again(PartHandle handle);
  [[nodiscard]] bool sums(const Ticket& ticket, const DeviceQueue& queue) const;
  void home(PartHandle handle, Errc code);
  [[nodiscard]] bool verifies(const DeviceQueue& queue) const;
  [[nodiscard]] static bool stays(const Ticket& ticket, const DeviceQueue& queue);
  [[nodiscard]] std::byte* consumer_memory(const Ticket& ticket, const TicketTable::Position& position) const;
  [[nodiscard]] DeviceQueue& queue_of(const Part& part) { return queues_[part.device.value]; }

  // ---- retrieve.cpp
  void admit_retrieve(ConsumerPort& port, const Submission& message);
  void locate(Ticket& ticket);
  void retrieve_home(Ticket& ticket, const TicketTable::Position& position, Errc code,
                     const std::byte* place);
  [[nodiscard]] Check check_of(const Ticket& ticket, const TicketTable::Position& position);
  void recount(Ticket& ticket);
  void advance(Ticket& ticket);
  void reload_windows(Ticket& ticket);

  // ---- store.cpp
  void admit_store(ConsumerPort& port, const Submission& message);
  bool reserve_more(Ticket& ticket);
  [[nodiscard]] bool reserve_next(Ticket& ticket);
  void queue_block(Ticket& ticket, uint32_t block);
  void store_home(Ticket& ticket, const TicketTable::Position& position, Errc code);
  void commit_ready(Ticket& ticket);
  [[nodiscard]] bool parent_is_ready(const Ticket& ticket, uint32_t block) const;
  void abandon_blocks(Ticket& ticket);
  void unpin_blocks(Ticket& ticket);

  // ---- stage.cpp
  void admit_stage(ConsumerPort& port, const Submission& message);
  [[nodiscard]] bool stage_next(Ticket& ticket);
  void stage_place_known(PartHandle handle);
  void stage_home(Ticket& ticket, const TicketTable::Position& position, Errc code);
  void publish_ready(Ticket& ticket);
  void abandon_stage(Ticket& ticket);
  void drop_abandoned(Ticket& ticket);

  const Clock& clock_;
  Catalog& catalog_;
  Transfer& transfer_;
  EngineOptions options_;
  Placement placement_;
  Pins pins_;  // outlives the tickets, which refer to it
  TicketTable table_;
  std::vector<DeviceQueue> queues_;
  std::vector<ConsumerPort*> ports_;  // by ConsumerId; null where free
  std::vector<bool> flat_;            // by NamespaceId
  uint32_t transfer_turn_ = 0;
  uint32_t transferring_ = 0;  // jobs with the transfer
  uint64_t transferring_bytes_ = 0;
  Nanos now_{0};
  Nanos next_look_ = never;  // when a deadline or the watchdog may be due
  EngineCounters counters_;
  bool has_second_residences_ = false;
  std::array<TransferCompletion, 64> transfer_completions_{};
  std::array<DeviceId, segments_max> plan_{};  // scratch
  std::array<Place, segments_max> places_{};   // scratch
  std::array<Place, segments_max> seconds_{};  // scratch
  std::array<bool, segments_max> wanted_{};    // scratch
  std::array<uint64_t, segments_max> sums_{};  // scratch
  std::vector<BlockId> matched_;               // scratch, [blocks_per_request_max]
  std::vector<BlockKey> keys_;                 // scratch, [blocks_per_request_max]
};

}  // namespace kvpool
