// Store: blocks that follow each other come from the consumer's buffers and become visible in their order.
//
// A ticket reserves its blocks a few at a step, so that a long store neither stalls the engine nor holds much
// space that nobody can read yet. Every block that it has reserved, found or committed stays pinned until the
// release: a later one's eviction cannot take an earlier one.

#include <algorithm>

#include "base/assert.h"
#include "engine/engine.h"

namespace kvpool {
namespace {

constexpr uint32_t reserves_per_step = 4;
constexpr uint32_t reserves_ahead = 64;  // blocks reserved and not yet visible, of one ticket

}  // namespace

void Engine::admit_store(ConsumerPort& port, const Submission& message) {
  const Geometry& geometry = catalog_.geometry(message.ns);
  const uint64_t parts = uint64_t{message.blocks} * geometry.segments();
  const auto* buffers = port.regions.resolve_array<const RegionAddress>(message.buffers, parts);
  if (buffers == nullptr) {
    ++counters_.invalid_requests;
    return answer(port, message, {.code = Errc::invalid_argument});
  }
  if (parts > options_.segments_per_request_max) return answer(port, message, {.code = Errc::too_large});
  BlockId parent = no_block;
  if (find_parent(message, parent) != Errc::ok) {
    counters_.rejected_blocks += message.blocks;
    return answer(port, message, {.code = Errc::rejected});
  }
  Ticket* ticket = open_ticket(port, message);
  if (ticket == nullptr) return;
  ticket->ns = message.ns;
  ticket->geometry = &geometry;
  ticket->buffers = buffers;
  ticket->keys = port.regions.resolve_array<const BlockKey>(message.keys, message.blocks);
  ticket->segment_first = 0;
  ticket->columns = static_cast<uint16_t>(geometry.segments());
  ticket->blocks = message.blocks;
  ticket->promised = message.blocks;
  ticket->parent = parent;
  const BlockKey first = ticket->keys[0];
  ticket->phase = phase_of_root(first);
  if (parent != no_block) catalog_.pin(parent);
  for (uint32_t block = 0; block < ticket->blocks; ++block) ticket->stored[block] = {};
}

bool Engine::reserve_more(Ticket& ticket) {
  bool worked = false;
  for (uint32_t i = 0; i < reserves_per_step; ++i) {
    if (ticket.state != Ticket::State::active || ticket.reserved >= ticket.promised ||
        ticket.reserved - ticket.committed >= reserves_ahead) {
      break;
    }
    if (!(ticket.op == Op::store ? reserve_next(ticket) : stage_next(ticket))) break;
    worked = true;
  }
  if (worked) {
    progressed(ticket);
    ticket.op == Op::store ? commit_ready(ticket) : publish_ready(ticket);
  }
  return worked;
}

// False: another ticket is writing that block; it will be there, or free, soon.
bool Engine::reserve_next(Ticket& ticket) {
  const uint32_t block = ticket.reserved;
  StoreBlock& stored = ticket.stored[block];
  const BlockKey key = ticket.keys[block];  // a copy: the consumer's memory may change
  BlockId parent = no_block;
  Phase phase = ticket.phase;
  uint32_t depth = block;  // flat: along the batch
  if (!flat_[ticket.ns.value]) {
    parent = block == 0 ? ticket.parent : ticket.stored[block - 1].id;
    if (parent != no_block) phase = catalog_.phase(parent);
    depth = parent == no_block ? 0 : catalog_.depth(parent) + 1;
  }
  const std::span<DeviceId> plan = std::span(plan_).first(ticket.columns);
  placement_.plan(phase, depth, plan);
  const auto reservation = catalog_.reserve(ticket.ns, key, parent, phase, depth, plan);
  if (reservation.code == Errc::busy) return false;
  ++ticket.reserved;
  if (reservation.code != Errc::ok) {
    stored.state = StoreState::failed;
    counters_.rejected_blocks += ticket.promised - block;
    cut(ticket, block, reservation.code);
    return true;
  }
  stored.id = reservation.block;
  catalog_.pin(stored.id);
  if (reservation.existing) {
    stored.state = StoreState::existing;
    return true;
  }
  stored.state = StoreState::writing;
  stored.parts_left = ticket.columns;
  queue_block(ticket, block);
  return true;
}

void Engine::queue_block(Ticket& ticket, uint32_t block) {
  catalog_.places(ticket.stored[block].id, 0, places_);
  for (uint32_t column = 0; column < ticket.columns; ++column) {
    const PartHandle handle = table_.handle(ticket, column, block);
    table_.part(handle) = {.offset = places_[column].offset, .device = places_[column].device};
    queue_of(table_.part(handle)).enqueue(ticket, handle);
  }
}

void Engine::store_home(Ticket& ticket, const TicketTable::Position& position, Errc code) {
  StoreBlock& stored = ticket.stored[position.block];
  if (code != Errc::ok) {
    stored.state = StoreState::failed;
    cut(ticket, position.block, code);
  } else if (stored.state == StoreState::writing) {
    --stored.parts_left;
  }
  commit_ready(ticket);
}

// A parent may have been retired or deleted while its child was being written.
bool Engine::parent_is_ready(const Ticket& ticket, uint32_t block) const {
  if (flat_[ticket.ns.value]) return true;
  const BlockId parent = block == 0 ? ticket.parent : ticket.stored[block - 1].id;
  return parent == no_block || catalog_.is_ready(parent);
}

// Makes visible, in their order, the blocks whose last part is home.
void Engine::commit_ready(Ticket& ticket) {
  while (ticket.committed < std::min(ticket.promised, ticket.reserved)) {
    StoreBlock& stored = ticket.stored[ticket.committed];
    if (stored.state == StoreState::writing) {
      if (stored.parts_left > 0) break;
      if (!parent_is_ready(ticket, ticket.committed)) {
        stored.state = StoreState::failed;
        counters_.rejected_blocks += ticket.promised - ticket.committed;
        cut(ticket, ticket.committed, Errc::rejected);
        break;
      }
      for (uint32_t column = 0; column < ticket.columns; ++column) {
        sums_[column] = table_.part(table_.handle(ticket, column, ticket.committed)).sum;
      }
      const Errc code = catalog_.commit(stored.id, std::span(sums_).first(ticket.columns));
      KVPOOL_ASSERT(code == Errc::ok);
      stored.state = StoreState::committed;
      ++counters_.stored_blocks;
      counters_.stored_bytes += ticket.geometry->block_bytes();
    }
    ++ticket.committed;
  }
  if (ticket.committed < ticket.promised) return;
  finish(ticket, ticket.failure);
}

// With the result: what did not become visible never will, children before their parents. Its keys are free
// for the next store at once, its extents once nothing writes there any more.
void Engine::abandon_blocks(Ticket& ticket) {
  for (uint32_t block = ticket.reserved; block > 0; --block) {
    const StoreBlock& stored = ticket.stored[block - 1];
    const bool visible = stored.state == StoreState::committed || stored.state == StoreState::existing;
    if (stored.id != no_block && !visible) catalog_.abandon(stored.id);
  }
}

// At the release.
void Engine::unpin_blocks(Ticket& ticket) {
  for (uint32_t block = 0; block < ticket.reserved; ++block) {
    BlockId& id = ticket.stored[block].id;
    if (id != no_block) catalog_.unpin(id);
    id = no_block;
  }
  if (ticket.parent != no_block) catalog_.unpin(ticket.parent);
  ticket.parent = no_block;
}

}  // namespace kvpool
