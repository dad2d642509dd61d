#include "api/consumer.h"

#include <poll.h>

#include <algorithm>
#include <cstddef>
#include <limits>

#include "api/options.h"

using kvpool::Op;
using kvpool::RegionAddress;
using kvpool::slots_max;

// The engine writes one into the other's memory.
static_assert(sizeof(kvpool_check) == sizeof(kvpool::Check) &&
              offsetof(kvpool_check, sum) == offsetof(kvpool::Check, sum));

kvpool_consumer::kvpool_consumer(kvpool_pool& its_pool, const char* name, std::span<std::byte> its_region)
    : pool(its_pool), region(its_region) {
  port.name = name != nullptr ? name : "";
  // Region 0 is there even if it is empty, so that later regions have the numbers that the header says.
  [[maybe_unused]] const bool added = port.regions.add(region);
  free_slots_.reserve(slots_max);
  for (uint32_t slot = slots_max; slot > 0; --slot) free_slots_.push_back(static_cast<uint16_t>(slot - 1));
}

// False when a pointer lies in no region, or a number does not fit its field.
bool kvpool_consumer::fill(Op op, const kvpool_request& request, kvpool::Submission& out) const {
  constexpr uint32_t most = std::numeric_limits<uint16_t>::max();
  if (request.ns > most || request.segment_first > most || request.segment_count > most) return false;
  const bool in_place = op == Op::retrieve && (request.flags & KVPOOL_IN_PLACE) != 0;
  const bool may_be_unsummed = in_place && request.checks != nullptr;
  const uint32_t known_flags = KVPOOL_PIN | KVPOOL_TAKE_PIN | (in_place ? KVPOOL_IN_PLACE : 0) |
                               (may_be_unsummed ? KVPOOL_UNSUMMED : 0);
  if ((request.flags & ~known_flags) != 0) return false;
  const bool wants_keys =
      op == Op::match || op == Op::store || op == Op::remove || (op == Op::retrieve && request.pin == 0);
  const bool wants_buffers = op == Op::store || op == Op::retrieve;
  if (wants_keys) out.keys = port.regions.address_of(request.keys);
  if (wants_buffers) out.buffers = port.regions.address_of(request.buffers);
  if ((wants_keys && out.keys == kvpool::no_address) ||
      (wants_buffers && out.buffers == kvpool::no_address)) {
    return false;
  }
  if (in_place) {
    out.places = port.regions.address_of(static_cast<const void*>(request.places));
    const bool stays_pinned = request.pin != 0 && (request.flags & KVPOOL_TAKE_PIN) == 0;
    if (request.checks != nullptr) out.checks = port.regions.address_of(request.checks);
    const bool lie_outside =
        out.places == kvpool::no_address || (request.checks != nullptr && out.checks == kvpool::no_address);
    if (lie_outside || !stays_pinned) return false;
  }
  out.user_data = request.user_data;
  out.pin = kvpool::PinId(request.pin);
  out.parent = {request.parent.high, request.parent.low};
  out.timeout_ns = request.timeout_us > UINT64_MAX / 1000 ? UINT64_MAX : request.timeout_us * 1000;
  out.blocks = request.blocks;
  out.block_first = request.block_first;
  out.segment_first = static_cast<uint16_t>(request.segment_first);
  out.segment_count = static_cast<uint16_t>(request.segment_count);
  out.ns = kvpool::NamespaceId(static_cast<uint16_t>(request.ns));
  out.op = op;
  out.flags = static_cast<uint8_t>((request.flags & KVPOOL_PIN ? kvpool::flag_pin : 0) |
                                   (request.flags & KVPOOL_TAKE_PIN ? kvpool::flag_take_pin : 0) |
                                   (request.has_parent != 0 ? kvpool::flag_has_parent : 0) |
                                   (in_place ? kvpool::flag_in_place : 0) |
                                   (request.flags & KVPOOL_UNSUMMED ? kvpool::flag_unsummed : 0));
  return true;
}

kvpool_status kvpool_consumer::submit(Op op, const kvpool_request* request, kvpool_ticket* ticket) {
  kvpool_request known;
  kvpool::Submission message;
  if (ticket == nullptr || !kvpool::take_struct(request, known) || !fill(op, known, message)) {
    return KVPOOL_INVALID_ARGUMENT;
  }
  if (port.drained.load(std::memory_order_acquire)) return KVPOOL_CLOSED;  // nobody would answer
  if (free_slots_.empty()) return KVPOOL_BUSY;
  const uint16_t slot = free_slots_.back();
  message.slot = slot;
  // Of the slot's last ticket; the engine has left it, and has not seen this one yet.
  port.channel.progress[slot].store(0, std::memory_order_relaxed);
  if (!port.channel.submissions.push(message)) return KVPOOL_BUSY;
  free_slots_.pop_back();
  slots_[slot].user_data = message.user_data;
  slots_[slot].under_way = true;
  slots_[slot].cancelled = false;
  *ticket = ticket_of(slot);
  pool.reactor().to_engine().notify();
  return KVPOOL_OK;
}

const kvpool_consumer::Slot* kvpool_consumer::find(kvpool_ticket ticket) const {
  const uint64_t slot = ticket & 0xffff;
  if (slot >= slots_max || !slots_[slot].under_way || ticket_of(static_cast<uint16_t>(slot)) != ticket) {
    return nullptr;
  }
  return &slots_[slot];
}

kvpool_status kvpool_consumer::cancel(kvpool_ticket ticket) {
  const Slot* found = find(ticket);
  if (found == nullptr || found->cancelled) return KVPOOL_OK;
  kvpool::Submission message;
  message.op = Op::cancel;
  message.slot = static_cast<uint16_t>(ticket & 0xffff);
  message.user_data = found->user_data;
  if (!port.channel.submissions.push(message)) return KVPOOL_BUSY;
  slots_[message.slot].cancelled = true;
  pool.reactor().to_engine().notify();
  return KVPOOL_OK;
}

uint32_t kvpool_consumer::poll(kvpool_completion* out, uint32_t max) {
  if (armed_) {
    port.to_consumer.done();
    armed_ = false;
  }
  news_seen_ = port.channel.news.load(std::memory_order_acquire);
  uint32_t count = 0;
  kvpool::Completion completion;
  while (count < max && port.channel.completions.pop(completion)) {
    Slot& slot = slots_[completion.slot];
    out[count++] = {.user_data = completion.user_data,
                    .ticket = ticket_of(completion.slot),
                    .kind = static_cast<uint32_t>(completion.kind),
                    .status = static_cast<int32_t>(completion.code),
                    .blocks = completion.blocks,
                    .segments = completion.segments,
                    .bytes = completion.bytes,
                    .pin = completion.pin.value,
                    .estimate_us = completion.estimate_ns / 1000};
    if (completion.kind == kvpool::CompletionKind::release) {
      slot.under_way = false;
      ++slot.generation;
      free_slots_.push_back(completion.slot);
    }
  }
  return count;
}

bool kvpool_consumer::arm() {
  port.to_consumer.prepare();
  const bool has_news = port.channel.news.load(std::memory_order_acquire) != news_seen_;
  armed_ = !has_news && port.channel.completions.empty();
  if (armed_) return true;
  port.to_consumer.done();
  return false;
}

void kvpool_consumer::wait(uint64_t timeout_us) {
  if (arm()) {
    pollfd descriptor{.fd = port.to_consumer.fd(), .events = POLLIN, .revents = 0};
    const timespec timeout{
        .tv_sec = static_cast<time_t>(std::min<uint64_t>(timeout_us / 1'000'000, 1'000'000'000)),
        .tv_nsec = static_cast<long>(timeout_us % 1'000'000 * 1000)};
    ppoll(&descriptor, 1, &timeout, nullptr);
    port.to_consumer.done();
    armed_ = false;
  }
  news_seen_ = port.channel.news.load(std::memory_order_acquire);
}

uint32_t kvpool_consumer::progress(kvpool_ticket ticket) const {
  if (find(ticket) == nullptr) return 0;
  return port.channel.progress[ticket & 0xffff].load(std::memory_order_acquire);
}
