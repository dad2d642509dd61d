// Ticket: a request under way, and Part: one segment of one of its blocks. Both live in tables made at open;
// a part is known by a handle, its index in the one table of parts.
// Thread: the engine's.

#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <vector>

#include "base/assert.h"
#include "engine/pins.h"
#include "engine/port.h"
#include "layout/geometry.h"

namespace kvpool {

// A part's index in the table of all parts: ticket x parts per ticket + column x blocks + block.
using PartHandle = Id<struct PartHandleTag, uint32_t>;
inline constexpr PartHandle no_part{UINT32_MAX};

using TicketIndex = Id<struct TicketIndexTag, uint16_t>;
inline constexpr TicketIndex no_ticket{UINT16_MAX};

enum class PartState : uint8_t {
  idle,    // not wanted, or not yet
  queued,  // in its device's lane, nothing taken for it
  issued,  // a device, a transfer or a list between them has it
  done,
};

// A transfer that the device wants in pieces has at most so many.
inline constexpr uint32_t pieces_max = 127;

struct Part {
  ByteOffset offset;             // on its device
  std::byte* address = nullptr;  // while issued: staging, the place in pool memory, or the consumer's buffer
  uint64_t sum = 0;              // store: checksum, once it is known
  PartHandle next = no_part;     // in whichever list it is
  DeviceId device = no_device;
  PartState state = PartState::idle;
  uint8_t pieces_left : 7 = 0;
  bool suspect : 1 = false;  // read: its bytes did not fit their checksum once
  Errc code = Errc::ok;      // the first thing that went wrong
};
static_assert(sizeof(Part) == 32);

// A singly linked list of parts, first in first out.
struct PartList {
  PartHandle head = no_part;
  PartHandle tail = no_part;
  [[nodiscard]] bool empty() const { return head == no_part; }
};

// A ticket's parts that wait for one device.
struct Lane {
  PartList parts;
  uint64_t queued_bytes = 0;  // of the parts
  uint64_t served = 0;        // virtual time: bytes that this ticket had from the device, see DeviceQueue
  bool listed = false;        // among the device's lanes
};

enum class StoreState : uint8_t { waiting, writing, existing, committed, failed };

struct StoreBlock {
  BlockId id = no_block;
  uint16_t parts_left = 0;
  StoreState state = StoreState::waiting;
};

// A retrieve whose run was cut in a geometry with windows: the windows that it loaded, or was about to,
// belong to a block that it no longer promises. It finishes all else first (two loads into one buffer must
// not race), then loads the windows of the block that is now the last.
enum class Rewind : uint8_t { none, wanted, loading };

struct Ticket {
  enum class State : uint8_t {
    free,
    active,
    ending,  // the result is out; what is outstanding comes home, then the release goes out
  };

  State state = State::free;
  Op op = Op::match;
  Rewind rewind = Rewind::none;
  bool stalled = false;  // the watchdog has named it
  bool take_pin = false;
  TicketIndex index;
  uint16_t slot = 0;
  uint16_t segment_first = 0;
  uint16_t columns = 0;  // segments asked for
  ConsumerPort* port = nullptr;
  uint64_t user_data = 0;
  NamespaceId ns;
  const Geometry* geometry = nullptr;
  const RegionAddress* buffers = nullptr;  // in the consumer's region: what is read there is checked at use
  // Retrieve in place: in the consumer's region, only written; [blocks][columns]. Null: all is copied.
  const void** places = nullptr;
  Check* checks = nullptr;  // the same, of what stays; null: not asked for
  bool unsummed = false;    // what stays is not summed here
  PinRef pin;
  PinId redeemed;            // given back at the release
  uint32_t block_first = 0;  // of the pin's run
  uint32_t blocks = 0;       // asked for
  uint32_t promised = 0;     // leading blocks that no failure has cut off
  uint32_t leading = 0;      // leading columns that are complete in the promised blocks
  uint32_t outstanding = 0;  // parts issued and not home
  Errc failure = Errc::ok;   // the first reason for which something was cut off
  Nanos deadline{0};
  Nanos urgent_at{0};  // from here on it goes before those that are not urgent
  Nanos progressed_at{0};
  std::array<uint32_t, segments_max> left{};  // retrieve: parts that each column still wants
  std::array<Lane, devices_max> lanes{};

  // store
  BlockId parent = no_block;       // of keys[0]
  Phase phase;                     // of keys[0] as a root; in a flat namespace of the whole batch
  const BlockKey* keys = nullptr;  // in the consumer's region
  std::vector<StoreBlock> stored;  // [blocks_per_request_max], made at open
  uint32_t reserved = 0;           // blocks that are past `waiting`
  uint32_t committed = 0;          // leading blocks in the pool
};

// All tickets and parts.
class TicketTable {
 public:
  TicketTable(uint32_t tickets_max, uint32_t parts_per_ticket, uint32_t blocks_per_request)
      : shift_(static_cast<uint32_t>(std::bit_width(parts_per_ticket - 1))),
        tickets_(tickets_max),
        parts_(static_cast<Part*>(std::calloc(uint64_t{tickets_max} << shift_, sizeof(Part)))) {
    KVPOOL_ASSERT(parts_ != nullptr && uint64_t{tickets_max} << shift_ <= UINT32_MAX);
    for (uint32_t i = tickets_max; i > 0; --i) {
      tickets_[i - 1].index = TicketIndex(static_cast<uint16_t>(i - 1));
      tickets_[i - 1].stored.resize(blocks_per_request);
      free_.push_back(static_cast<uint16_t>(i - 1));
    }
  }

  // Null when all are under way.
  [[nodiscard]] Ticket* take() {
    if (free_.empty()) return nullptr;
    Ticket& ticket = tickets_[free_.back()];
    free_.pop_back();
    // What the one before it had from the devices is not its own, and may be in the time of the other kind.
    for (Lane& lane : ticket.lanes) lane.served = 0;
    return &ticket;
  }
  void give_back(Ticket& ticket) {
    KVPOOL_ASSERT(ticket.outstanding == 0 && !ticket.pin);
    for (const Lane& lane : ticket.lanes) KVPOOL_ASSERT(lane.queued_bytes == 0 && !lane.listed);
    ticket.state = Ticket::State::free;
    free_.push_back(ticket.index.value);
  }

  [[nodiscard]] std::span<Ticket> all() { return tickets_; }
  [[nodiscard]] std::span<const Ticket> all() const { return tickets_; }
  [[nodiscard]] Ticket& at(TicketIndex index) { return tickets_[index.value]; }
  [[nodiscard]] uint32_t under_way() const { return static_cast<uint32_t>(tickets_.size() - free_.size()); }

  [[nodiscard]] Part& part(PartHandle handle) { return parts_[handle.value]; }
  [[nodiscard]] Ticket& ticket_of(PartHandle handle) { return tickets_[handle.value >> shift_]; }
  [[nodiscard]] PartHandle handle(const Ticket& ticket, uint32_t column, uint32_t block) const {
    return PartHandle((uint32_t{ticket.index.value} << shift_) + column * ticket.blocks + block);
  }

  // Where a part stands in its ticket.
  struct Position {
    uint32_t column;  // of those asked for
    uint32_t block;
    uint32_t segment;
    uint32_t bytes;  // logical
  };
  [[nodiscard]] Position position(PartHandle handle) const {
    const Ticket& ticket = tickets_[handle.value >> shift_];
    const uint32_t index = handle.value & ((1U << shift_) - 1);
    const uint32_t column = index / ticket.blocks;
    const uint32_t segment = ticket.segment_first + column;
    return {column, index - column * ticket.blocks, segment, ticket.geometry->segment_bytes[segment]};
  }

  void push(PartList& list, PartHandle handle) {
    part(handle).next = no_part;
    if (list.empty()) {
      list.head = handle;
    } else {
      part(list.tail).next = handle;
    }
    list.tail = handle;
  }
  void push_front(PartList& list, PartHandle handle) {
    part(handle).next = list.head;
    if (list.empty()) list.tail = handle;
    list.head = handle;
  }
  // REQUIRES: not empty.
  PartHandle pop(PartList& list) {
    const PartHandle handle = list.head;
    list.head = part(handle).next;
    if (list.empty()) list.tail = no_part;
    return handle;
  }

 private:
  uint32_t shift_;  // a ticket's parts are a power of two, so that a handle splits without a division
  std::vector<Ticket> tickets_;
  std::vector<uint16_t> free_;
  // Zeroed pages that are not touched before they are used; every part is assigned before it is read.
  struct Free {
    void operator()(Part* parts) const { std::free(parts); }
  };
  std::unique_ptr<Part[], Free> parts_;
};

}  // namespace kvpool
