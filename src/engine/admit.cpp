// Admission: messages from consumers become answers or tickets. Nothing in a message is trusted.

#include <algorithm>

#include "base/assert.h"
#include "base/log.h"
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
      // A request brings two completions. A consumer that keeps to its slots always has room for them.
      if (!port->closing && message.op != Op::cancel && port->channel.completions.room() < port->owed + 2) {
        log_warn("consumer '{}' sends requests and takes no completions: it is closed", port->name);
        ++counters_.invalid_requests;
        close(*port);
        break;
      }
      admit(*port, message);
    }
  }
  return worked;
}

void Engine::admit(ConsumerPort& port, const Submission& message) {
  if (message.op == Op::cancel) return admit_cancel(port, message);
  if (port.closing) return answer(port, message, {.code = Errc::closed});
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
  if (port.regions.resolve_array<const BlockKey>(message.keys, message.blocks) == nullptr) {
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
  ticket->places = nullptr;
  ticket->checks = nullptr;
  ticket->unsummed = false;
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
  port.owed += 2;
  return ticket;
}

// The message's keys, copied: what a consumer's memory holds may change while it is looked at.
std::span<const BlockKey> Engine::keys_of(const ConsumerPort& port, const Submission& message) {
  const auto* keys = port.regions.resolve_array<const BlockKey>(message.keys, message.blocks);
  std::copy_n(keys, message.blocks, keys_.begin());
  return std::span(keys_).first(message.blocks);
}

// ok, or miss: nothing can follow a parent that is not there.
Errc Engine::find_parent(const Submission& message, BlockId& parent) const {
  parent = no_block;
  if ((message.flags & flag_has_parent) == 0) return Errc::ok;
  parent = catalog_.find(message.ns, message.parent);
  return parent == no_block ? Errc::miss : Errc::ok;
}

void Engine::admit_match(ConsumerPort& port, const Submission& message) {
  const std::span<const BlockKey> keys = keys_of(port, message);
  Completion completion;
  BlockId parent = no_block;
  Errc code = find_parent(message, parent);
  if (code == Errc::ok && (message.flags & flag_pin) != 0) {
    PinRef ref;
    code = pins_.match(message.ns, parent, keys, ref);
    if (code == Errc::ok) {
      completion.blocks = static_cast<uint32_t>(ref.blocks().size());
      completion.pin = pins_.hold(ref, port.id);
      if (completion.pin.value == 0) code = Errc::busy;
    }
  } else if (code == Errc::ok) {
    completion.blocks = catalog_.match(message.ns, parent, keys, matched_);
  }
  if (code == Errc::busy) {
    ++counters_.busy_requests;
    return answer(port, message, {.code = code});
  }
  completion.bytes = catalog_.geometry(message.ns).run_bytes(completion.blocks);
  completion.estimate_ns = static_cast<uint64_t>(estimate(completion.bytes).count());
  completion.code = completion.blocks == message.blocks ? Errc::ok : Errc::miss;
  answer(port, message, completion);
}

// Until the slowest device has delivered its bytes, or the link all of them.
Nanos Engine::time_for(std::span<const double> device_bytes) const {
  double seconds = 0;
  double sum = 0;
  for (size_t i = 0; i < queues_.size(); ++i) {
    sum += device_bytes[i];
    const double rate = queues_[i].bytes_per_second();
    if (rate > 0) seconds = std::max(seconds, device_bytes[i] / rate);
  }
  const double link = options_.profile.link_bytes_per_second;
  if (link > 0) seconds = std::max(seconds, sum / link);
  return std::chrono::duration_cast<Nanos>(std::chrono::duration<double>(seconds));
}

// Of a run whose segments are where they were planned, behind what the devices have to do already.
Nanos Engine::estimate(uint64_t run_bytes) const {
  std::array<double, devices_max> bytes{};
  for (size_t i = 0; i < queues_.size(); ++i) {
    bytes[i] =
        static_cast<double>(queues_[i].queued_bytes()) + options_.shares[i] * static_cast<double>(run_bytes);
  }
  return time_for(bytes);
}

// As estimate(), from where the segments really are.
Nanos Engine::estimate_exactly(const PinRef& pin) {
  std::array<double, devices_max> bytes{};
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
  for (size_t i = 0; i < queues_.size(); ++i) bytes[i] += static_cast<double>(queues_[i].queued_bytes());
  return time_for(bytes);
}

PinRef Engine::find_pinned(const Submission& message) {
  PinRef pin = pins_.find(message.pin);
  const bool inside = pin && message.blocks > 0 && message.block_first < pin.blocks().size() &&
                      message.blocks <= pin.blocks().size() - message.block_first;
  return inside ? std::move(pin) : PinRef();
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
  uint32_t removed = 0;
  for (const BlockKey& key : keys_of(port, message)) removed += catalog_.remove(message.ns, key);
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
