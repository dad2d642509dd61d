// Retrieve: a pinned run of blocks comes to the consumer's buffers, from all devices at once, in layer order.
// In place, what lies in pool memory stays there, and the consumer learns where; the pin keeps it there.

#include <algorithm>
#include <optional>

#include "base/assert.h"
#include "base/checksum.h"
#include "engine/engine.h"

namespace kvpool {
namespace {

// What a retrieve in place writes to; of any other one nothing.
struct Answers {
  const void** places = nullptr;
  Check* checks = nullptr;
};

// None: they lie elsewhere, or the request names no pin, or one that would end with the ticket and so keep
// nothing where it is.
std::optional<Answers> answers_of(const ConsumerPort& port, const Submission& message, uint64_t parts) {
  if ((message.flags & flag_in_place) == 0) return Answers{};
  Answers made{.places = port.regions.resolve_array<const void*>(message.places, parts)};
  const bool has_checks = message.checks != no_address;
  if (has_checks) made.checks = port.regions.resolve_array<Check>(message.checks, parts);
  const bool stays_pinned = message.pin.value != 0 && (message.flags & flag_take_pin) == 0;
  const bool is_unsummed = (message.flags & flag_unsummed) != 0;
  if (made.places == nullptr || has_checks != (made.checks != nullptr) || !stays_pinned) return {};
  if (is_unsummed && !has_checks) return {};
  return made;
}

}  // namespace

void Engine::admit_retrieve(ConsumerPort& port, const Submission& message) {
  const bool has_pin = message.pin.value != 0;
  PinRef pin;
  uint32_t blocks = message.blocks;
  if (has_pin) {
    pin = find_pinned(message);
    if (!pin) {
      ++counters_.invalid_requests;
      return answer(port, message, {.code = Errc::invalid_argument});
    }
  } else {
    BlockId parent = no_block;
    Errc code = find_parent(message, parent);
    if (code == Errc::ok) code = pins_.match(message.ns, parent, keys_of(port, message), pin);
    if (code == Errc::busy) ++counters_.busy_requests;
    if (code != Errc::ok) return answer(port, message, {.code = code});
    blocks = static_cast<uint32_t>(pin.blocks().size());
  }
  const Geometry& geometry = catalog_.geometry(pin.ns());
  const uint32_t columns =
      message.segment_count == 0
          ? geometry.segments() - std::min<uint32_t>(message.segment_first, geometry.segments())
          : message.segment_count;
  const bool columns_fit = columns > 0 && message.segment_first + columns <= geometry.segments();
  const auto* buffers =
      port.regions.resolve_array<const RegionAddress>(message.buffers, uint64_t{message.blocks} * columns);
  if (!columns_fit || buffers == nullptr) {
    ++counters_.invalid_requests;
    return answer(port, message, {.code = Errc::invalid_argument});
  }
  if (uint64_t{blocks} * columns > options_.segments_per_request_max) {
    return answer(port, message, {.code = Errc::too_large});
  }
  const std::optional<Answers> answers = answers_of(port, message, uint64_t{message.blocks} * columns);
  if (!answers) {
    ++counters_.invalid_requests;
    return answer(port, message, {.code = Errc::invalid_argument});
  }
  Ticket* ticket = open_ticket(port, message);
  if (ticket == nullptr) return;
  ticket->ns = pin.ns();
  ticket->pin = std::move(pin);
  ticket->geometry = &geometry;
  ticket->buffers = buffers;
  ticket->places = answers->places;
  ticket->checks = answers->checks;
  ticket->unsummed = (message.flags & flag_unsummed) != 0;
  ticket->block_first = has_pin ? message.block_first : 0;
  ticket->segment_first = message.segment_first;
  ticket->columns = static_cast<uint16_t>(columns);
  ticket->blocks = blocks;
  ticket->promised = blocks;
  // Fewer blocks than keys is a miss of the rest.
  if (blocks < message.blocks) ticket->failure = Errc::miss;
  // What comes into a buffer has none.
  if (answers->places != nullptr) std::fill_n(answers->places, uint64_t{blocks} * columns, nullptr);
  locate(*ticket);
}

// Finds every part's place and queues it, layer by layer, on its device.
void Engine::locate(Ticket& ticket) {
  const std::span<const BlockId> run = ticket.pin.blocks().subspan(ticket.block_first, ticket.blocks);
  std::array<double, devices_max> bytes{};
  for (uint32_t block = 0; block < ticket.blocks; ++block) {
    catalog_.places(run[block], 0, places_);
    if (has_second_residences_) catalog_.places(run[block], 1, seconds_);
    for (uint32_t column = 0; column < ticket.columns; ++column) {
      const uint32_t segment = ticket.segment_first + column;
      const bool second = has_second_residences_ && seconds_[segment].device != no_device;
      const Place& place = second ? seconds_[segment] : places_[segment];
      table_.part(table_.handle(ticket, column, block)) = {.offset = place.offset, .device = place.device};
    }
  }
  for (uint32_t column = 0; column < ticket.columns; ++column) {
    const uint32_t segment = ticket.segment_first + column;
    const uint32_t first = ticket.geometry->is_window(segment) ? ticket.blocks - 1 : 0;
    ticket.left[column] = ticket.blocks - first;
    for (uint32_t block = first; block < ticket.blocks; ++block) {
      const PartHandle handle = table_.handle(ticket, column, block);
      const Part& part = table_.part(handle);
      queue_of(part).enqueue(ticket, handle);
      bytes[part.device.value] += ticket.geometry->segment_bytes[segment];
    }
  }
  // It becomes urgent when twice the time that it needs by itself is left.
  ticket.urgent_at = ticket.deadline - 2 * time_for(bytes);
}

// place: of a part that stays in pool memory.
void Engine::retrieve_home(Ticket& ticket, const TicketTable::Position& position, Errc code,
                           const std::byte* place) {
  if (code != Errc::ok) {
    if (code != Errc::invalid_argument && code != Errc::cancelled) {
      catalog_.retire(ticket.pin.blocks()[ticket.block_first + position.block]);
    }
    if (position.block < ticket.promised) {
      cut(ticket, position.block, code);
      recount(ticket);
    }
  } else if (position.block < ticket.promised && ticket.left[position.column] > 0) {
    --ticket.left[position.column];
    // Before advance() reports the segment; an entry whose segment was reported is not written again.
    const uint64_t entry = uint64_t{position.block} * ticket.columns + position.column;
    if (place != nullptr) ticket.places[entry] = place;
    if (place != nullptr && ticket.checks != nullptr) ticket.checks[entry] = check_of(ticket, position);
  }
  advance(ticket);
}

// Of a part that stays in pool memory.
Check Engine::check_of(const Ticket& ticket, const TicketTable::Position& position) {
  const Part& part = table_.part(table_.handle(ticket, position.column, position.block));
  if (!verifies(queue_of(part))) return {};
  const BlockId block = ticket.pin.blocks()[ticket.block_first + position.block];
  return {.seed = checksum_seed(catalog_.key(block), position.segment),
          .sum = catalog_.checksums(block)[position.segment]};
}

// After a cut: what the columns still want of the blocks that are left.
void Engine::recount(Ticket& ticket) {
  for (uint32_t column = 0; column < ticket.columns; ++column) {
    if (ticket.geometry->is_window(ticket.segment_first + column)) {
      ticket.left[column] = ticket.promised > 0 ? 1 : 0;
      if (ticket.promised > 0) ticket.rewind = Rewind::wanted;
      continue;
    }
    uint32_t left = 0;
    for (uint32_t block = 0; block < ticket.promised; ++block) {
      if (table_.part(table_.handle(ticket, column, block)).state != PartState::done) ++left;
    }
    ticket.left[column] = left;
  }
}

// Reports what has become complete; ends the ticket when all is.
void Engine::advance(Ticket& ticket) {
  if (ticket.promised == 0) {
    ticket.leading = 0;
    return finish(ticket, ticket.failure == Errc::invalid_argument ? Errc::invalid_argument : Errc::miss);
  }
  if (ticket.rewind != Rewind::none && is_quiet(ticket)) {
    if (ticket.rewind == Rewind::wanted) {
      ticket.rewind = Rewind::loading;
      return reload_windows(ticket);
    }
    ticket.rewind = Rewind::none;
  }
  const uint32_t before = ticket.leading;
  while (ticket.leading < ticket.columns && ticket.left[ticket.leading] == 0) ++ticket.leading;
  if (ticket.leading > before) {
    ticket.port->channel.progress[ticket.slot].store(ticket.leading, std::memory_order_release);
    ticket.port->has_news = true;
  }
  if (ticket.leading < ticket.columns || ticket.rewind != Rewind::none) return;
  Errc code = Errc::ok;
  if (ticket.failure == Errc::invalid_argument)
    code = Errc::invalid_argument;
  else if (ticket.failure != Errc::ok)
    code = Errc::miss;
  finish(ticket, code);
}

void Engine::reload_windows(Ticket& ticket) {
  for (uint32_t column = 0; column < ticket.columns; ++column) {
    if (!ticket.geometry->is_window(ticket.segment_first + column)) continue;
    const PartHandle handle = table_.handle(ticket, column, ticket.promised - 1);
    Part& part = table_.part(handle);
    part.code = Errc::ok;
    ticket.left[column] = 1;
    queue_of(part).enqueue(ticket, handle);
  }
}

}  // namespace kvpool
