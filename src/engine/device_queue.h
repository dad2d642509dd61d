// DeviceQueue: what waits for one device, what is on it, and what goes next.
//
// Fairness. Each ticket has a lane of parts that wait for the device. The lane that has been served least
// goes next (self-clocked fair queueing, Golestani 1994: a lane that joins starts where the lane served last
// stands, so newcomers neither wait for a large request nor starve it). Tickets that
// redeem one pin are one request cut in pieces: they share one turn, first come first served. A ticket whose
// deadline comes near goes before the others, the earliest deadline first. Within a lane parts go in layer
// order.
//
// Bounds. The bytes on the device are bounded by a window: what it gives in some milliseconds, or two of the
// largest parts it has had; never more than reached its bandwidth in a probe's sweep. So an urgent read
// waits milliseconds at most, or on a slow drive for two such parts. What waits for its checksum or copy
// comes on top, at most a window or what the transfer has at once, whichever is more; in place, where the
// copy is all there is, nothing. A part larger than the window goes alone.
//
// Thread: the engine's. Nothing allocates after construction.

#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "base/range_set.h"
#include "engine/staging.h"
#include "engine/ticket.h"
#include "io/device.h"
#include "layout/profile.h"

namespace kvpool {

// Bytes that are with the transfer at once: enough to keep it busy, little enough that their order can still
// be chosen. Of a worker's, half are done while it is being given more: eight workers with one segment of 1
// MiB each summed four fifths of what they can.
inline constexpr uint64_t worker_window_bytes = 4ULL << 20;
inline uint64_t transfer_window_bytes(uint32_t workers) {
  return std::max<uint64_t>(16ULL << 20, workers * worker_window_bytes);
}

struct DeviceCounters {
  uint64_t read_bytes = 0;
  uint64_t written_bytes = 0;
  uint64_t reads = 0;
  uint64_t writes = 0;
  uint64_t errors = 0;
  Nanos busy{0};                        // with at least one part issued
  uint64_t discarded_bytes = 0;         // that the device was advised to drop
  uint64_t discards_dropped_bytes = 0;  // of which it was never told, for want of room in a list
};

class DeviceQueue {
 public:
  DeviceQueue(DeviceId id, Device& device, TicketTable& table, std::span<std::byte> staging,
              const DeviceProfile& profile, uint32_t transfer_workers = 1);

  enum class Kind : uint8_t { read, write };

  // ---- lanes
  void enqueue(Ticket& ticket, PartHandle handle);
  // One that had its turn already: first of its ticket's.
  void enqueue_again(Ticket& ticket, PartHandle handle);
  // Forgets the ticket's parts of blocks from `block` on; they become idle.
  void drop(Ticket& ticket, uint32_t block);
  // Whose part goes next, or null. Its lane is not empty.
  [[nodiscard]] Ticket* pick(Kind kind, Nanos now);
  // Takes the first part of the lane off it and counts it as issued.
  PartHandle take(Ticket& ticket, Nanos now);
  [[nodiscard]] bool has_queued(Kind kind) const { return !lanes_[static_cast<size_t>(kind)].empty(); }
  [[nodiscard]] Kind kind_of(const Ticket& ticket) const {
    return ticket.op == Op::store || (ticket.op == Op::stage && limits_.in_place) ? Kind::write : Kind::read;
  }

  // ---- in flight
  // Whether a part of that size may be issued; whether it may go to the device.
  [[nodiscard]] bool may_issue(uint32_t bytes) const;
  [[nodiscard]] bool may_start(uint32_t bytes) const;
  // Sends a part to the device, in as many pieces as that wants. REQUIRES: flush() said true.
  void start(PartHandle handle, IoKind kind, std::byte* buffer);
  // Sends pieces that the device had no room for; true when none is left.
  bool flush();
  // Calls `arrived(handle)` for each part whose last piece is back; its code and address are set.
  template <class Arrived>
  bool poll(Nanos now, Arrived&& arrived) {
    const size_t count = device_->poll(completions_);
    now_ = now;
    for (size_t i = 0; i < count; ++i) {
      if (const PartHandle handle = account(completions_[i]); handle != no_part) arrived(handle);
    }
    return count > 0;
  }
  // Advises the device of what was freed, when it has nothing else to do or much has gathered: a discard
  // costs time of which a request near it may have to wait. What it takes is taken out. False: it took
  // nothing.
  bool discard(RangeSet& freed);
  // The part is home: nothing of this device's holds it any more. Gives its staging back.
  void finish(PartHandle handle, Nanos now);

  // Whether the device went or came since this was asked last; what online() says is as of then.
  [[nodiscard]] bool online_changed() {
    const bool was = std::exchange(online_, device_->online());
    return was != online_;
  }
  [[nodiscard]] bool online() const { return online_; }
  // A block is given up for what this device returned. Logged the first time.
  void note_wrong_bytes();

  // Whether the device can move these bytes from or to that memory without staging.
  [[nodiscard]] bool moves_directly(const std::byte* address, uint32_t bytes) const {
    return bytes == aligned(bytes) && is_aligned(address) && device_->reaches(address, bytes);
  }
  [[nodiscard]] uint32_t aligned(uint32_t bytes) const {
    return (bytes + limits_.alignment_bytes - 1) / limits_.alignment_bytes * limits_.alignment_bytes;
  }
  [[nodiscard]] bool is_aligned(const std::byte* address) const {
    return reinterpret_cast<uintptr_t>(address) % limits_.alignment_bytes == 0;
  }

  [[nodiscard]] DeviceId id() const { return id_; }
  [[nodiscard]] const std::string& name() const { return device_->name(); }
  [[nodiscard]] Nanos next_event_time() const { return device_->next_event_time(); }
  [[nodiscard]] const DeviceLimits& limits() const { return limits_; }
  [[nodiscard]] Staging& staging() { return staging_; }
  [[nodiscard]] const Staging& staging() const { return staging_; }
  [[nodiscard]] uint64_t queued_bytes() const { return queued_bytes_ + issued_bytes_; }
  [[nodiscard]] uint64_t issued_bytes() const { return issued_bytes_; }
  [[nodiscard]] uint32_t issued_writes() const { return issued_writes_; }
  [[nodiscard]] double bytes_per_second() const { return bytes_per_second_; }
  // By the profile; 0 where that knows no rate.
  [[nodiscard]] Nanos time_for(uint64_t bytes) const {
    if (bytes_per_second_ <= 0) return Nanos{0};
    return std::chrono::duration_cast<Nanos>(
        std::chrono::duration<double>(static_cast<double>(bytes) / bytes_per_second_));
  }
  [[nodiscard]] DeviceCounters counters(Nanos now) const;

  // Parts that wait for their copy or checksum, in the order in which they arrived.
  PartList to_transfer;
  // Parts of stores that are summed, and staged where need be, and wait for the device.
  PartList prepared;
  // Reads give way to one write after so many in a row, so that stores cannot starve.
  static constexpr uint32_t reads_per_write = 8;
  uint32_t reads_in_a_row = 0;
  // The write that reads wait for, and until when at most.
  PartHandle write_to_wait_for = no_part;
  Nanos reads_wait_until{0};
  // When reads need not wait for it any more: then, or when one of them becomes urgent.
  [[nodiscard]] Nanos reads_go_at() const;

 private:
  // Null, or the part that a completion was the last piece of.
  [[nodiscard]] PartHandle account(const IoCompletion& completion);
  void list(Ticket& ticket, uint64_t earliest);
  void unlist(Ticket& ticket);
  void count_queued(Ticket& ticket, PartHandle handle);
  // The virtual time at which all that is queued of the ticket's request will have been served.
  [[nodiscard]] uint64_t request_end(const Ticket& ticket) const;
  void pull_up_after(const Ticket& ticket, uint64_t bytes);

  struct Sending {
    PartHandle handle = no_part;
    IoKind kind = IoKind::read;
    std::byte* buffer = nullptr;
    uint64_t offset = 0;
    uint32_t left = 0;
  };

  DeviceId id_;
  Device* device_;
  bool online_ = true;
  bool wrong_bytes_noted_ = false;
  TicketTable* table_;
  DeviceLimits limits_;
  Staging staging_;
  double bytes_per_second_;
  uint64_t window_bytes_max_;
  uint64_t window_bytes_;  // grows to two parts, so that the device need not wait between large ones
  uint64_t transfer_window_bytes_;
  std::vector<TicketIndex> lanes_[2];  // tickets with parts queued, by Kind
  uint64_t virtual_time_[2] = {};      // of the lanes in service, by Kind
  uint64_t queued_bytes_ = 0;
  uint64_t issued_bytes_ = 0;
  uint32_t issued_writes_ = 0;  // parts
  uint64_t device_bytes_ = 0;
  Sending sending_;
  Nanos now_{0};
  Nanos busy_since_ = never;
  DeviceCounters counters_;
  std::array<IoCompletion, 64> completions_{};
};

}  // namespace kvpool
