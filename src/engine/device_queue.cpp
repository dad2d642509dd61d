#include "engine/device_queue.h"

#include <algorithm>

#include "base/assert.h"
#include "base/log.h"

namespace kvpool {
namespace {

// Memory is bounded by its copies alone; a drive wants up to 32 requests of 1 MiB, a slower one what it gives
// in some milliseconds. A disk serves what it has all at once, so that the first of it comes with the last,
// and a retrieve's first layer waits for a window.
constexpr uint64_t memory_window_bytes_min = 8ULL << 20;
constexpr uint64_t storage_window_bytes_min = 4ULL << 20;
constexpr uint64_t storage_window_bytes_max = 32ULL << 20;
constexpr Nanos storage_window_time{std::chrono::milliseconds(5)};

double bytes_of_window(double bytes_per_second, Nanos latency) {
  constexpr int latencies = 4;
  const Nanos time = std::max(storage_window_time, latencies * latency);
  return bytes_per_second * std::chrono::duration<double>(time).count();
}

// What a window may grow to.
uint64_t largest_window(const DeviceLimits& limits, const DeviceProfile& profile, uint32_t transfer_workers) {
  if (profile.queue_bytes > 0) return profile.queue_bytes;
  if (limits.in_place) return std::max(memory_window_bytes_min, transfer_workers * worker_window_bytes);
  return storage_window_bytes_max;
}

// A sweep finds the fewest bytes that come near the best rate, and on a disk whose rate wanders that may be
// any number: what is more than some milliseconds of them is waiting. Where the latency of those bytes is not
// known they count as they are.
uint64_t window_of(const DeviceLimits& limits, const DeviceProfile& profile, uint64_t most) {
  const bool measured = profile.queue_bytes > 0;
  const double bytes = std::max(bytes_of_window(profile.retrieve_bytes_per_second(), profile.read_latency),
                                bytes_of_window(profile.write_bytes_per_second, profile.write_latency));
  if (limits.in_place || bytes <= 0 || (measured && profile.read_latency == Nanos{0})) return most;
  return std::min(most, std::max(static_cast<uint64_t>(bytes), storage_window_bytes_min));
}

// Whether the consumer cut one request into these two. Another consumer may redeem the same pin.
bool are_one_request(const Ticket& a, const Ticket& b) {
  return a.redeemed.value != 0 && a.redeemed == b.redeemed && a.port == b.port;
}

}  // namespace

DeviceQueue::DeviceQueue(DeviceId id, Device& device, TicketTable& table, std::span<std::byte> staging,
                         const DeviceProfile& profile, uint32_t transfer_workers)
    : id_(id),
      device_(&device),
      table_(&table),
      limits_(device.limits()),
      staging_(staging, limits_.alignment_bytes),
      bytes_per_second_(profile.retrieve_bytes_per_second()),
      window_bytes_max_(largest_window(limits_, profile, transfer_workers)),
      window_bytes_(window_of(limits_, profile, window_bytes_max_)),
      transfer_window_bytes_(transfer_window_bytes(transfer_workers)) {
  for (auto& lanes : lanes_) lanes.reserve(table.all().size());
}

void DeviceQueue::enqueue(Ticket& ticket, PartHandle handle) {
  if (!ticket.lanes[id_.value].listed) list(ticket, request_end(ticket));
  table_->push(ticket.lanes[id_.value].parts, handle);
  count_queued(ticket, handle);
}

void DeviceQueue::enqueue_again(Ticket& ticket, PartHandle handle) {
  if (!ticket.lanes[id_.value].listed) list(ticket, 0);
  table_->push_front(ticket.lanes[id_.value].parts, handle);
  count_queued(ticket, handle);
}

void DeviceQueue::list(Ticket& ticket, uint64_t earliest) {
  Lane& lane = ticket.lanes[id_.value];
  lane.listed = true;
  const auto kind = static_cast<size_t>(kind_of(ticket));
  lane.served = std::max({lane.served, virtual_time_[kind], earliest});
  lanes_[kind].push_back(ticket.index);
}

void DeviceQueue::count_queued(Ticket& ticket, PartHandle handle) {
  const uint32_t bytes = aligned(table_->position(handle).bytes);
  window_bytes_ = std::max(window_bytes_, std::min(uint64_t{2} * bytes, window_bytes_max_));
  ticket.lanes[id_.value].queued_bytes += bytes;
  queued_bytes_ += bytes;
  table_->part(handle).state = PartState::queued;
}

uint64_t DeviceQueue::request_end(const Ticket& ticket) const {
  uint64_t end = 0;
  for (const TicketIndex index : lanes_[static_cast<size_t>(kind_of(ticket))]) {
    const Ticket& other = table_->at(index);
    if (!are_one_request(ticket, other)) continue;
    const Lane& lane = other.lanes[id_.value];
    end = std::max(end, lane.served + lane.queued_bytes);
  }
  return end;
}

void DeviceQueue::unlist(Ticket& ticket) {
  Lane& lane = ticket.lanes[id_.value];
  lane.listed = false;
  auto& lanes = lanes_[static_cast<size_t>(kind_of(ticket))];
  const auto it = std::ranges::find(lanes, ticket.index);
  KVPOOL_ASSERT(it != lanes.end());
  *it = lanes.back();
  lanes.pop_back();
}

// What was to be served behind bytes that are not wanted any more need not wait for them.
void DeviceQueue::pull_up_after(const Ticket& ticket, uint64_t bytes) {
  const auto kind = static_cast<size_t>(kind_of(ticket));
  const uint64_t served = ticket.lanes[id_.value].served;
  for (const TicketIndex index : lanes_[kind]) {
    Ticket& other = table_->at(index);
    Lane& lane = other.lanes[id_.value];
    if (&other == &ticket || !are_one_request(ticket, other) || lane.served < served + bytes) continue;
    lane.served = std::min(lane.served, std::max(virtual_time_[kind], lane.served - bytes));
  }
}

void DeviceQueue::drop(Ticket& ticket, uint32_t block) {
  Lane& lane = ticket.lanes[id_.value];
  const uint64_t queued_bytes = lane.queued_bytes;
  PartList kept;
  while (!lane.parts.empty()) {
    const PartHandle handle = table_->pop(lane.parts);
    const auto position = table_->position(handle);
    if (position.block < block) {
      table_->push(kept, handle);
      continue;
    }
    const uint32_t bytes = aligned(position.bytes);
    lane.queued_bytes -= bytes;
    queued_bytes_ -= bytes;
    table_->part(handle).state = PartState::idle;
    if (handle == write_to_wait_for) write_to_wait_for = no_part;
  }
  lane.parts = kept;
  pull_up_after(ticket, queued_bytes - lane.queued_bytes);
  if (lane.listed && kept.empty()) unlist(ticket);
}

Ticket* DeviceQueue::pick(Kind kind, Nanos now) {
  Ticket* best = nullptr;
  bool best_urgent = false;
  for (const TicketIndex index : lanes_[static_cast<size_t>(kind)]) {
    Ticket& ticket = table_->at(index);
    const bool urgent = now >= ticket.urgent_at;
    const bool better =
        best == nullptr || (urgent && !best_urgent) ||
        (urgent == best_urgent && (urgent ? ticket.deadline < best->deadline
                                          : ticket.lanes[id_.value].served < best->lanes[id_.value].served));
    if (!better) continue;
    best = &ticket;
    best_urgent = urgent;
  }
  return best;
}

Nanos DeviceQueue::reads_go_at() const {
  Nanos at = reads_wait_until;
  for (const TicketIndex index : lanes_[static_cast<size_t>(Kind::read)]) {
    at = std::min(at, table_->at(index).urgent_at);
  }
  return at;
}

PartHandle DeviceQueue::take(Ticket& ticket, Nanos now) {
  Lane& lane = ticket.lanes[id_.value];
  const PartHandle handle = table_->pop(lane.parts);
  const uint32_t bytes = aligned(table_->position(handle).bytes);
  lane.served += bytes;
  // What goes before its turn moves nobody else's.
  if (now < ticket.urgent_at) {
    uint64_t& virtual_time = virtual_time_[static_cast<size_t>(kind_of(ticket))];
    virtual_time = std::max(virtual_time, lane.served);
  }
  lane.queued_bytes -= bytes;
  queued_bytes_ -= bytes;
  if (lane.parts.empty()) unlist(ticket);
  if (issued_bytes_ == 0) busy_since_ = now;
  issued_bytes_ += bytes;
  if (kind_of(ticket) == Kind::write) ++issued_writes_;
  table_->part(handle).state = PartState::issued;
  ++ticket.outstanding;
  return handle;
}

void DeviceQueue::note_wrong_bytes() {
  if (std::exchange(wrong_bytes_noted_, true)) return;
  log_error("{}: bytes do not match their checksum; the block is given up. Later ones are only counted",
            name());
}

bool DeviceQueue::may_issue(uint32_t bytes) const {
  // What waits for its turn with the transfer must not keep the device from its own work.
  const uint64_t behind = limits_.in_place ? 0 : std::max(window_bytes_, transfer_window_bytes_);
  return issued_bytes_ == 0 || issued_bytes_ + bytes <= window_bytes_ + behind;
}

bool DeviceQueue::may_start(uint32_t bytes) const {
  return device_bytes_ == 0 || device_bytes_ + bytes <= window_bytes_;
}

void DeviceQueue::start(PartHandle handle, IoKind kind, std::byte* buffer) {
  KVPOOL_ASSERT(sending_.left == 0);
  Part& part = table_->part(handle);
  const uint32_t bytes = aligned(table_->position(handle).bytes);
  const uint32_t pieces = (bytes + limits_.transfer_bytes_max - 1) / limits_.transfer_bytes_max;
  KVPOOL_ASSERT(pieces <= pieces_max);
  part.pieces_left = static_cast<uint8_t>(pieces & pieces_max);
  device_bytes_ += bytes;
  sending_ = {.handle = handle, .kind = kind, .buffer = buffer, .offset = part.offset.value, .left = bytes};
  flush();
}

bool DeviceQueue::flush() {
  while (sending_.left > 0) {
    const uint32_t length = std::min(sending_.left, limits_.transfer_bytes_max);
    const IoRequest request{.kind = sending_.kind,
                            .offset = ByteOffset(sending_.offset),
                            .length_bytes = length,
                            .buffer = sending_.buffer,
                            .tag = (uint64_t{length} << 32) | sending_.handle.value};
    if (!device_->submit(request)) return false;
    sending_.left -= length;
    sending_.offset += length;
    if (sending_.buffer != nullptr) sending_.buffer += length;
  }
  return true;
}

PartHandle DeviceQueue::account(const IoCompletion& completion) {
  const PartHandle handle(static_cast<uint32_t>(completion.tag));
  const auto expected = static_cast<uint32_t>(completion.tag >> 32);
  Part& part = table_->part(handle);
  KVPOOL_ASSERT(part.state == PartState::issued && part.pieces_left > 0);
  const Errc code =
      completion.code == Errc::ok && completion.bytes != expected ? Errc::short_io : completion.code;
  if (code != Errc::ok) {
    ++counters_.errors;
    if (part.code == Errc::ok) part.code = code;
  }
  if (limits_.in_place) part.address = completion.in_place;
  if (--part.pieces_left > 0) return no_part;
  const uint32_t bytes = aligned(table_->position(handle).bytes);
  device_bytes_ -= bytes;
  if (kind_of(table_->ticket_of(handle)) == Kind::read) {
    ++counters_.reads;
    counters_.read_bytes += bytes;
  } else {
    ++counters_.writes;
    counters_.written_bytes += bytes;
  }
  return handle;
}

bool DeviceQueue::discard(RangeSet& freed) {
  counters_.discards_dropped_bytes = freed.dropped_bytes();
  if (freed.empty() || (queued_bytes() > 0 && !freed.is_half_full())) return false;
  bool took = false;
  while (!freed.empty()) {
    const ByteRange last = freed.ranges().back();
    if (!device_->discard(ByteOffset(last.offset), last.length_bytes)) break;
    counters_.discarded_bytes += last.length_bytes;
    (void)freed.take_last(last.length_bytes);
    took = true;
  }
  return took;
}

void DeviceQueue::finish(PartHandle handle, Nanos now) {
  Part& part = table_->part(handle);
  const uint32_t bytes = aligned(table_->position(handle).bytes);
  if (staging_.owns(part.address)) staging_.give_back(part.address, bytes);
  part.address = nullptr;
  if (handle == write_to_wait_for) write_to_wait_for = no_part;
  KVPOOL_ASSERT(issued_bytes_ >= bytes);
  issued_bytes_ -= bytes;
  if (kind_of(table_->ticket_of(handle)) == Kind::write) --issued_writes_;
  if (issued_bytes_ == 0) {
    counters_.busy += now - busy_since_;
    busy_since_ = never;
  }
}

DeviceCounters DeviceQueue::counters(Nanos now) const {
  DeviceCounters counters = counters_;
  if (busy_since_ != never) counters.busy += now - busy_since_;
  return counters;
}

}  // namespace kvpool
