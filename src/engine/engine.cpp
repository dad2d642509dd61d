#include "engine/engine.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/assert.h"
#include "base/log.h"

namespace kvpool {
namespace {

std::string_view name_of(Op op) {
  constexpr std::array<std::string_view, 8> names = {"match",    "retrieve", "store", "stage",
                                                     "estimate", "delete",   "unpin", "cancel"};
  return names[static_cast<size_t>(op)];
}

}  // namespace

std::vector<CatalogDevice> Engine::catalog_devices(std::span<Device* const> devices,
                                                   std::span<const double> shares) {
  KVPOOL_ASSERT(devices.size() == shares.size());
  CatalogDevice device;
  for (const Device* each : devices) {
    device.alignment_bytes = std::max(device.alignment_bytes, each->limits().alignment_bytes);
  }
  std::vector<CatalogDevice> all;
  for (const Device* each : devices) {
    device.size_bytes = each->limits().size_bytes;
    device.storage = each->limits().storage;
    device.keeps_freed = each->limits().discards;
    device.share = shares[all.size()];
    all.push_back(device);
  }
  return all;
}

Engine::Engine(const Wiring& wiring, EngineOptions options)
    : clock_(*wiring.clock),
      catalog_(*wiring.catalog),
      transfer_(*wiring.transfer),
      options_(std::move(options)),
      placement_(options_.shares),
      pins_(catalog_, options_.pins_max, options_.tickets_max, options_.blocks_per_request_max),
      table_(options_.tickets_max, options_.segments_per_request_max, options_.blocks_per_request_max),
      ports_(options_.consumers_max, nullptr),
      matched_(options_.blocks_per_request_max),
      keys_(options_.blocks_per_request_max) {
  KVPOOL_ASSERT(wiring.devices.size() == options_.shares.size());
  KVPOOL_ASSERT(wiring.devices.size() == options_.profile.devices.size());
  queues_.reserve(wiring.devices.size());
  for (size_t i = 0; i < wiring.devices.size(); ++i) {
    queues_.emplace_back(DeviceId(static_cast<uint8_t>(i)), *wiring.devices[i], table_, wiring.staging[i],
                         options_.profile.devices[i], options_.transfer_workers);
  }
  now_ = clock_.now();
}

Engine::~Engine() = default;

bool Engine::step() {
  now_ = clock_.now();
  bool worked = flush_transfers();
  const size_t transferred_count = transfer_.poll(transfer_completions_);
  for (size_t i = 0; i < transferred_count; ++i) transferred(transfer_completions_[i]);
  worked |= transferred_count > 0;
  for (DeviceQueue& queue : queues_) {
    worked |= queue.poll(now_, [&](PartHandle handle) { arrived(queue, handle); });
    if (queue.online_changed()) catalog_.set_online(queue.id(), queue.online());
  }
  worked |= take_submissions();
  for (Ticket& ticket : table_.all()) {
    if (ticket.state == Ticket::State::active && (ticket.op == Op::store || ticket.op == Op::stage)) {
      worked |= reserve_more(ticket);
    }
  }
  for (DeviceQueue& queue : queues_) {
    if (queue.limits().discards) worked |= queue.discard(catalog_.freed(queue.id()));
    worked |= pump(queue);
  }
  if (now_ >= next_look_) {
    worked |= expire();
    watch();
    next_look_ = next_due();
  }
  for (ConsumerPort* port : ports_) {
    if (port == nullptr) continue;
    if (port->has_news) {
      port->has_news = false;
      port->channel.news.fetch_add(1, std::memory_order_release);
      port->to_consumer.notify();
    }
    if (port->closing && port->tickets == 0 && port->channel.submissions.empty()) {
      ports_[port->id.value] = nullptr;
      port->drained.store(true, std::memory_order_release);
      port->to_consumer.notify();
    }
  }
  return worked;
}

Nanos Engine::next_event_time() const {
  Nanos next = std::min(next_look_, transfer_.next_event_time());
  for (const DeviceQueue& queue : queues_) {
    next = std::min(next, queue.next_event_time());
    if (const Nanos at = queue.reads_go_at(); at > now_) next = std::min(next, at);
  }
  return next;
}

Nanos Engine::next_due() const {
  Nanos next = never;
  for (const Ticket& ticket : table_.all()) {
    if (ticket.state == Ticket::State::free) continue;
    if (ticket.state == Ticket::State::active) next = std::min(next, ticket.deadline);
    if (!ticket.stalled) next = std::min(next, ticket.progressed_at + options_.stall_warning);
  }
  return next;
}

bool Engine::has_input() const {
  return std::ranges::any_of(
      ports_, [](const ConsumerPort* port) { return port != nullptr && !port->channel.submissions.empty(); });
}

Errc Engine::attach(ConsumerPort& port) {
  const auto free = std::ranges::find(ports_, nullptr);
  if (free == ports_.end()) return Errc::busy;
  port.id = ConsumerId(static_cast<uint16_t>(free - ports_.begin()));
  *free = &port;
  return Errc::ok;
}

void Engine::close(ConsumerPort& port) {
  if (port.closing) return;
  port.closing = true;
  for (Ticket& ticket : table_.all()) {
    if (ticket.state == Ticket::State::active && ticket.port == &port) finish(ticket, Errc::closed);
  }
  pins_.drop_all(port.id);
}

std::string Engine::outstanding() {
  std::string text;
  for (const Ticket& ticket : table_.all()) {
    if (ticket.state == Ticket::State::free) continue;
    if (!text.empty()) text += "; ";
    text += describe(ticket);
  }
  return text;
}

// For the log: walks all parts of the ticket.
std::string Engine::describe(const Ticket& ticket) {
  std::array<uint32_t, devices_max> held{};
  for (uint32_t column = 0; column < ticket.columns; ++column) {
    const uint32_t blocks = ticket.op == Op::retrieve ? ticket.blocks : ticket.reserved;
    for (uint32_t block = 0; block < blocks; ++block) {
      const Part& part = table_.part(table_.handle(ticket, column, block));
      if (part.state == PartState::issued) ++held[part.device.value];
    }
  }
  std::string text =
      fmt::format("{} of consumer '{}', {:.1f} s without progress", name_of(ticket.op), ticket.port->name,
                  std::chrono::duration<double>(now_ - ticket.progressed_at).count());
  for (size_t i = 0; i < queues_.size(); ++i) {
    if (held[i] > 0) text += fmt::format(", device '{}' has {} parts of it", queues_[i].name(), held[i]);
  }
  return text;
}

Result<NamespaceId> Engine::add_namespace(const Geometry& geometry, bool flat) {
  if (const Status valid = validate(geometry); !valid) return tl::unexpected(valid.error());
  const uint32_t largest = *std::ranges::max_element(geometry.segment_bytes);
  const auto refuse = [&](std::string why) {
    return fail(Errc::too_large, fmt::format("namespace '{}': {}", geometry.name, why));
  };
  if (geometry.segments() > options_.segments_per_request_max) {
    return refuse(fmt::format("a block has {} segments; limits.segments_per_request is {}",
                              geometry.segments(), options_.segments_per_request_max));
  }
  for (DeviceQueue& queue : queues_) {
    const uint64_t pieces = queue.limits().in_place ? 1 : pieces_max;
    if (queue.aligned(largest) > pieces * queue.limits().transfer_bytes_max) {
      return refuse(
          fmt::format("a segment of {} bytes is more than device '{}' takes", largest, queue.name()));
    }
    if (!queue.limits().in_place && queue.aligned(largest) > queue.staging().size_bytes()) {
      return refuse(
          fmt::format("a segment of {} bytes does not fit the {} bytes of staging that device '{}' has; "
                      "set a larger pool.staging",
                      largest, queue.staging().size_bytes(), queue.name()));
    }
  }
  uint64_t pool_bytes = 0;
  for (const DeviceQueue& queue : queues_) pool_bytes += queue.limits().size_bytes;
  if (geometry.block_bytes() > pool_bytes) {
    return refuse(fmt::format("a block of {} bytes is more than all devices have, {} bytes",
                              geometry.block_bytes(), pool_bytes));
  }
  auto added = catalog_.add_namespace(geometry, flat);
  if (added) {
    KVPOOL_ASSERT(added->value == flat_.size());
    flat_.push_back(flat);
  }
  return added;
}

DeviceCounters Engine::device_counters(DeviceId device) const { return queues_[device.value].counters(now_); }

uint64_t Engine::staging_used_bytes() const {
  uint64_t used = 0;
  for (const DeviceQueue& queue : queues_) used += queue.staging().used_bytes();
  return used;
}

void Engine::post(ConsumerPort& port, const Completion& completion) {
  const bool has_room = port.channel.completions.push(completion);
  KVPOOL_ASSERT(has_room ||
                port.closing);  // two a slot are reserved; a consumer that broke that is being closed
  port.has_news = true;
}

// Leading columns that are complete in the promised blocks. Not always ticket.leading: windows that were
// complete for a longer run are wanted again for a shorter one.
uint32_t Engine::complete_columns(const Ticket& ticket) const {
  uint32_t column = 0;
  while (column < ticket.leading && ticket.left[column] == 0) ++column;
  return column;
}

// The result goes out; from here on nothing more is issued for it.
void Engine::finish(Ticket& ticket, Errc code) {
  KVPOOL_ASSERT(ticket.state == Ticket::State::active);
  for (DeviceQueue& queue : queues_) queue.drop(ticket, 0);
  ticket.state = Ticket::State::ending;
  Completion completion{.user_data = ticket.user_data,
                        .blocks = ticket.op == Op::retrieve ? ticket.promised : ticket.committed,
                        .segments = ticket.op == Op::retrieve ? complete_columns(ticket) : 0,
                        .slot = ticket.slot,
                        .kind = CompletionKind::result,
                        .code = code};
  if (ticket.op == Op::retrieve) {
    if (completion.segments == 0) completion.blocks = 0;
    if (code == Errc::ok || code == Errc::miss) {
      counters_.retrieved_blocks += completion.blocks;
      for (uint32_t column = 0; column < ticket.columns && completion.blocks > 0; ++column) {
        const uint32_t segment = ticket.segment_first + column;
        const uint64_t copies = ticket.geometry->is_window(segment) ? 1 : completion.blocks;
        completion.bytes += copies * ticket.geometry->segment_bytes[segment];
      }
      counters_.retrieved_bytes += completion.bytes;
    }
  }
  if (code == Errc::timed_out) ++counters_.timed_out_requests;
  if (code == Errc::cancelled || code == Errc::closed) ++counters_.cancelled_requests;
  if (code == Errc::invalid_argument) ++counters_.invalid_requests;
  if (ticket.op == Op::store) abandon_blocks(ticket);
  if (ticket.op == Op::stage) abandon_stage(ticket);
  --ticket.port->owed;
  post(*ticket.port, completion);
  if (ticket.outstanding == 0) release(ticket);
}

void Engine::release(Ticket& ticket) {
  KVPOOL_ASSERT(ticket.state == Ticket::State::ending && ticket.outstanding == 0);
  if (ticket.op == Op::store) unpin_blocks(ticket);
  if (ticket.op == Op::stage) drop_abandoned(ticket);
  ticket.pin.reset();
  if (ticket.take_pin) pins_.drop(ticket.redeemed);
  ConsumerPort& port = *ticket.port;
  --port.owed;
  post(port, {.user_data = ticket.user_data,
              .slot = ticket.slot,
              .kind = CompletionKind::release,
              .code = Errc::ok});
  port.slots_in_use.reset(ticket.slot);
  --port.tickets;
  table_.give_back(ticket);
}

bool Engine::expire() {
  bool worked = false;
  for (Ticket& ticket : table_.all()) {
    if (ticket.state != Ticket::State::active || now_ < ticket.deadline) continue;
    finish(ticket, Errc::timed_out);
    worked = true;
  }
  return worked;
}

void Engine::watch() {
  for (Ticket& ticket : table_.all()) {
    if (ticket.state == Ticket::State::free || ticket.stalled) continue;
    if (now_ - ticket.progressed_at < options_.stall_warning) continue;
    ticket.stalled = true;
    ++counters_.stalled_tickets;
    log_warn("stalled: {}", describe(ticket));
  }
}

void Engine::progressed(Ticket& ticket) {
  ticket.progressed_at = now_;
  if (!ticket.stalled) return;
  ticket.stalled = false;
  next_look_ = std::min(next_look_, now_ + options_.stall_warning);
}

// Block `block` and what follows it are no longer promised.
void Engine::cut(Ticket& ticket, uint32_t block, Errc code) {
  if (block >= ticket.promised) return;
  if (ticket.failure == Errc::ok) ticket.failure = code;
  ticket.promised = block;
  for (DeviceQueue& queue : queues_) queue.drop(ticket, block);
}

bool Engine::is_quiet(const Ticket& ticket) const {
  return ticket.outstanding == 0 &&
         std::ranges::all_of(ticket.lanes, [](const Lane& lane) { return lane.parts.empty(); });
}

void Engine::count_failure(Errc code) {
  if (code == Errc::io_error || code == Errc::system) ++counters_.io_errors;
  if (code == Errc::short_io) ++counters_.short_ios;
  if (code == Errc::corrupt) ++counters_.checksum_errors;
}

}  // namespace kvpool
