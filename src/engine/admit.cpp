// Admission: messages from consumers become answers or tickets. Nothing in a message is trusted.

#include <algorithm>

#include "base/assert.h"
#include "engine/engine.h"

namespace kvpool {
namespace {

constexpr uint32_t submissions_per_step = 16;

bool brings_keys(const Submission& message) {
  switch (message.op) {
    case Op::match:
    case Op::store:
    case Op::remove:
      return true;
    case Op::retrieve:
      return message.pin.value == 0;
    default:
      return false;
  }
}

}  // namespace

bool Engine::take_submissions() {
  bool worked = false;
  for (ConsumerPort* port : ports_) {
    if (port == nullptr) continue;
    Submission message;
    for (uint32_t i = 0; i < submissions_per_step && port->channel.submissions.pop(message); ++i) {
      worked = true;
      if (!port->closing) admit(*port, message);
    }
  }
  return worked;
}

void Engine::admit(ConsumerPort& port, const Submission& message) {
  if (message.op == Op::cancel) return admit_cancel(port, message);
  if (message.slot >= slots_max || port.slots_in_use.test(message.slot)) {
    ++counters_.invalid_requests;  // a consumer that breaks the slot rule cannot be answered either
    return;
  }
  if (const Errc code = check(port, message); code != Errc::ok) {
    ++counters_.invalid_requests;
    return answer(port, message, {.code = code});
  }
  switch (message.op) {
    case Op::match:
      return admit_match(port, message);
    case Op::retrieve:
      return admit_retrieve(port, message);
    case Op::store:
      return admit_store(port, message);
    case Op::stage:
      return admit_stage(port, message);
    case Op::estimate:
      return admit_estimate(port, message);
    case Op::remove:
      return admit_remove(port, message);
    case Op::unpin:
      return admit_unpin(port, message);
    case Op::cancel:
      break;
  }
  answer(port, message, {.code = Errc::invalid_argument});
}

Errc Engine::check(const ConsumerPort& port, const Submission& message) const {
  if (!brings_keys(message)) return Errc::ok;
  if (message.ns.value >= flat_.size() || message.blocks == 0) return Errc::invalid_argument;
  if (message.blocks > options_.blocks_per_request_max) return Errc::too_large;
  if (port.regions.resolve_array<BlockKey>(message.keys, message.blocks) == nullptr) {
    return Errc::invalid_argument;
  }
  return Errc::ok;
}

// Both ends at once, for what needs no ticket.
void Engine::answer(ConsumerPort& port, const Submission& message, Completion completion) {
  completion.user_data = message.user_data;
  completion.slot = message.slot;
  completion.kind = CompletionKind::result;
  const bool takes_pin = (message.flags & flag_take_pin) != 0 && message.pin.value != 0;
  if (takes_pin && completion.code != Errc::busy) pins_.drop(message.pin);
  post(port, completion);
  completion.kind = CompletionKind::release;
  completion.code = Errc::ok;
  post(port, completion);
}

// Null, and answered busy, when all tickets are under way.
Ticket* Engine::open_ticket(ConsumerPort& port, const Submission& message) {
  Ticket* ticket = table_.take();
  if (ticket == nullptr) {
    ++counters_.busy_requests;
    answer(port, message, {.code = Errc::busy});
    return nullptr;
  }
  ticket->state = Ticket::State::active;
  ticket->op = message.op;
  ticket->rewind = Rewind::none;
  ticket->stalled = false;
  ticket->take_pin = (message.flags & flag_take_pin) != 0 && message.pin.value != 0;
  ticket->slot = message.slot;
  ticket->port = &port;
  ticket->user_data = message.user_data;
  ticket->redeemed = message.pin;
  ticket->leading = 0;
  ticket->committed = 0;
  ticket->reserved = 0;
  ticket->failure = Errc::ok;
  const Nanos timeout =
      message.timeout_ns == 0 ? options_.deadline : Nanos(std::min<uint64_t>(message.timeout_ns, 1ULL << 60));
  ticket->deadline = now_ + timeout;
  ticket->urgent_at = ticket->deadline;
  ticket->progressed_at = now_;
  next_look_ = std::min({next_look_, ticket->deadline, now_ + options_.stall_warning});
  port.slots_in_use.set(message.slot);
  ++port.tickets;
  port.channel.progress[message.slot].store(0, std::memory_order_relaxed);
  return ticket;
}

BlockId Engine::parent_of(const Submission& message) const {
  if ((message.flags & flag_has_parent) == 0) return no_block;
  return catalog_.find(message.ns, message.parent);
}

void Engine::admit_match(ConsumerPort& port, const Submission& message) {
  const auto* keys = port.regions.resolve_array<BlockKey>(message.keys, message.blocks);
  const BlockId parent = parent_of(message);
  if ((message.flags & flag_has_parent) != 0 && parent == no_block) {
    return answer(port, message, {.code = Errc::miss});
  }
  Completion completion;
  if ((message.flags & flag_pin) != 0) {
    const PinRef ref = pins_.match(message.ns, parent, {keys, message.blocks}, completion.blocks);
    if (ref) completion.pin = pins_.hold(ref, port.id);
    if (completion.blocks > 0 && completion.pin.value == 0) {
      ++counters_.busy_requests;
      return answer(port, message, {.code = Errc::busy});
    }
  } else {
    completion.blocks = catalog_.match(message.ns, parent, {keys, message.blocks}, matched_);
  }
  completion.bytes = catalog_.geometry(message.ns).run_bytes(completion.blocks);
  completion.estimate_ns = static_cast<uint64_t>(estimate(completion.bytes).count());
  completion.code = completion.blocks == message.blocks ? Errc::ok : Errc::miss;
  answer(port, message, completion);
}

// The slowest device's share of the bytes behind what it already has to do, or the link's, whichever is
// longer.
Nanos Engine::estimate(uint64_t run_bytes) const {
  double seconds = 0;
  double all_bytes = static_cast<double>(run_bytes);
  for (size_t i = 0; i < queues_.size(); ++i) {
    const auto queued = static_cast<double>(queues_[i].queued_bytes());
    const double bytes = queued + options_.shares[i] * static_cast<double>(run_bytes);
    all_bytes += queued;
    if (queues_[i].bytes_per_second() > 0) seconds = std::max(seconds, bytes / queues_[i].bytes_per_second());
  }
  const double link = options_.profile.link_bytes_per_second;
  if (link > 0) seconds = std::max(seconds, all_bytes / link);
  return std::chrono::duration_cast<Nanos>(std::chrono::duration<double>(seconds));
}

// As estimate(), from where the segments really are.
Nanos Engine::estimate_exactly(const PinRef& pin) {
  std::array<uint64_t, devices_max> bytes{};
  const Geometry& geometry = catalog_.geometry(pin.ns());
  const std::span<const BlockId> blocks = pin.blocks();
  for (const BlockId block : blocks) {
    catalog_.places(block, 0, places_);
    if (has_second_residences_) catalog_.places(block, 1, seconds_);
    for (uint32_t segment = 0; segment < geometry.segments(); ++segment) {
      if (geometry.is_window(segment) && block != blocks.back()) continue;
      const bool second = has_second_residences_ && seconds_[segment].device != no_device;
      bytes[(second ? seconds_ : places_)[segment].device.value] += geometry.segment_bytes[segment];
    }
  }
  double seconds = 0;
  double all_bytes = 0;
  for (size_t i = 0; i < queues_.size(); ++i) {
    const auto total = static_cast<double>(queues_[i].queued_bytes() + bytes[i]);
    all_bytes += total;
    if (queues_[i].bytes_per_second() > 0) seconds = std::max(seconds, total / queues_[i].bytes_per_second());
  }
  const double link = options_.profile.link_bytes_per_second;
  if (link > 0) seconds = std::max(seconds, all_bytes / link);
  return std::chrono::duration_cast<Nanos>(std::chrono::duration<double>(seconds));
}

void Engine::admit_estimate(ConsumerPort& port, const Submission& message) {
  const PinRef pin = pins_.find(message.pin);
  if (!pin) {
    ++counters_.invalid_requests;
    return answer(port, message, {.code = Errc::invalid_argument});
  }
  const auto blocks = static_cast<uint32_t>(pin.blocks().size());
  answer(port, message,
         {.pin = message.pin,
          .bytes = catalog_.geometry(pin.ns()).run_bytes(blocks),
          .estimate_ns = static_cast<uint64_t>(estimate_exactly(pin).count()),
          .blocks = blocks});
}

void Engine::admit_remove(ConsumerPort& port, const Submission& message) {
  const auto* keys = port.regions.resolve_array<BlockKey>(message.keys, message.blocks);
  uint32_t removed = 0;
  for (uint32_t i = 0; i < message.blocks; ++i) removed += catalog_.remove(message.ns, keys[i]);
  answer(port, message, {.blocks = removed, .code = removed > 0 ? Errc::ok : Errc::miss});
}

void Engine::admit_unpin(ConsumerPort& port, const Submission& message) {
  const bool dropped = pins_.drop(message.pin);
  if (!dropped) ++counters_.invalid_requests;
  answer(port, message, {.code = dropped ? Errc::ok : Errc::invalid_argument});
}

void Engine::admit_cancel(ConsumerPort& port, const Submission& message) {
  for (Ticket& ticket : table_.all()) {
    if (ticket.state == Ticket::State::active && ticket.port == &port && ticket.slot == message.slot &&
        ticket.user_data == message.user_data) {
      return finish(ticket, Errc::cancelled);
    }
  }
}

}  // namespace kvpool
