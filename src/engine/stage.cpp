// Stage: the parts of a pinned run that lie on drives get a second residence in pool memory, which stays as
// long as the run is pinned and room is not needed after that. A part first goes to the memory device, which
// says where its place is, then to its drive, which reads into that place.

#include <algorithm>

#include "base/assert.h"
#include "engine/engine.h"

namespace kvpool {
namespace {

constexpr uint32_t unpublished_residence = 2;  // Catalog::places

// Whether it holds a second residence that is not published.
bool is_unfinished(const StoreBlock& block) {
  return block.state == StoreState::writing || (block.state == StoreState::failed && block.parts_left > 0);
}

}  // namespace

void Engine::admit_stage(ConsumerPort& port, const Submission& message) {
  PinRef pin = find_pinned(message);
  if (!pin) {
    ++counters_.invalid_requests;
    return answer(port, message, {.code = Errc::invalid_argument});
  }
  const Geometry& geometry = catalog_.geometry(pin.ns());
  if (uint64_t{message.blocks} * geometry.segments() > options_.segments_per_request_max) {
    return answer(port, message, {.code = Errc::too_large});
  }
  Ticket* ticket = open_ticket(port, message);
  if (ticket == nullptr) return;
  ticket->ns = pin.ns();
  ticket->pin = std::move(pin);
  ticket->geometry = &geometry;
  ticket->buffers = nullptr;
  ticket->block_first = message.block_first;
  ticket->segment_first = 0;
  ticket->columns = static_cast<uint16_t>(geometry.segments());
  ticket->blocks = message.blocks;
  ticket->promised = message.blocks;
  for (uint32_t block = 0; block < ticket->blocks; ++block) ticket->stored[block] = {};
}

// Takes room for one more block; one that finds none cuts the run, as does one that a ticket with a result
// still has parts of under way. False: another ticket is staging it.
bool Engine::stage_next(Ticket& ticket) {
  const uint32_t block = ticket.reserved;
  StoreBlock& stored = ticket.stored[block];
  stored.id = ticket.pin.blocks()[ticket.block_first + block];
  const uint32_t segments = ticket.columns;
  catalog_.places(stored.id, unpublished_residence, seconds_);
  const auto reserved_by_other = std::span(seconds_).first(segments);
  if (std::ranges::any_of(reserved_by_other, [](const Place& p) { return p.device != no_device; }))
    return false;
  ++ticket.reserved;
  catalog_.places(stored.id, 0, places_);
  catalog_.places(stored.id, 1, seconds_);
  uint32_t count = 0;
  for (uint32_t segment = 0; segment < segments; ++segment) {
    const bool in_memory = queues_[places_[segment].device.value].limits().in_place;
    wanted_[segment] = !in_memory && seconds_[segment].device == no_device;
    if (wanted_[segment]) ++count;
  }
  stored.state = StoreState::existing;
  if (count == 0) return true;
  DeviceId memory = no_device;
  for (DeviceQueue& queue : queues_) {
    if (!queue.limits().in_place || memory != no_device) continue;
    if (catalog_.reserve_second(stored.id, queue.id(), std::span(wanted_).first(segments)))
      memory = queue.id();
  }
  if (memory == no_device) {
    stored.state = StoreState::failed;
    cut(ticket, block, Errc::rejected);
    return true;
  }
  has_second_residences_ = true;
  stored.state = StoreState::writing;
  stored.parts_left = static_cast<uint16_t>(count);
  catalog_.places(stored.id, unpublished_residence, seconds_);
  for (uint32_t segment = 0; segment < segments; ++segment) {
    if (!wanted_[segment]) continue;
    const PartHandle handle = table_.handle(ticket, segment, block);
    table_.part(handle) = {.offset = seconds_[segment].offset, .device = memory};
    queue_of(table_.part(handle)).enqueue(ticket, handle);
  }
  return true;
}

// The memory device has said where the part's new place is: now its drive reads into it.
void Engine::stage_place_known(PartHandle handle) {
  Part& part = table_.part(handle);
  Ticket& ticket = table_.ticket_of(handle);
  const auto position = table_.position(handle);
  std::byte* place = part.address;
  queue_of(part).finish(handle, now_);
  --ticket.outstanding;
  catalog_.places(ticket.stored[position.block].id, 0, places_);
  part.offset = places_[position.segment].offset;
  part.device = places_[position.segment].device;
  part.address = place;
  KVPOOL_ASSERT(
      queue_of(part).is_aligned(place));  // extents are of the largest alignment, memory of huge pages
  queue_of(part).enqueue(ticket, handle);
}

void Engine::stage_home(Ticket& ticket, const TicketTable::Position& position, Errc code) {
  StoreBlock& stored = ticket.stored[position.block];
  if (code != Errc::ok) {
    stored.state = StoreState::failed;
    if (code != Errc::cancelled) catalog_.retire(stored.id);
    cut(ticket, position.block, code);
  } else if (stored.state == StoreState::writing) {
    --stored.parts_left;
  }
  publish_ready(ticket);
}

void Engine::publish_ready(Ticket& ticket) {
  while (ticket.committed < std::min(ticket.promised, ticket.reserved)) {
    StoreBlock& stored = ticket.stored[ticket.committed];
    if (stored.state == StoreState::writing) {
      if (stored.parts_left > 0) break;
      catalog_.publish_second(stored.id);
      stored.state = StoreState::committed;
    }
    ++ticket.committed;
  }
  if (ticket.committed < ticket.promised) return;
  const bool bad_bytes = ticket.failure != Errc::ok && ticket.failure != Errc::rejected;
  finish(ticket, bad_bytes ? Errc::miss : ticket.failure);
}

// With the result: the next stage of these blocks need not wait for what may never come.
void Engine::abandon_stage(Ticket& ticket) {
  for (uint32_t block = 0; block < ticket.reserved; ++block) {
    if (is_unfinished(ticket.stored[block])) catalog_.abandon_second(ticket.stored[block].id);
  }
}

// At the release: nothing writes there any more.
void Engine::drop_abandoned(Ticket& ticket) {
  for (uint32_t block = 0; block < ticket.reserved; ++block) {
    StoreBlock& stored = ticket.stored[block];
    if (is_unfinished(stored)) catalog_.drop_second(stored.id);
    stored.id = no_block;
  }
}

}  // namespace kvpool
