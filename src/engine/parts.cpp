// What happens to a part between its lane and its home:
//   read   lane -> device -> [transfer: copy, checksum] -> home; one that stays in place is not copied
//   write  in place: lane -> device (gives the address) -> transfer: copy, checksum -> home
//          else:     lane -> [transfer: copy to staging, checksum] -> prepared -> device -> home
//   stage  lane of the memory (gives the address) -> lane of the drive -> drive -> transfer: checksum -> home

#include "base/assert.h"
#include "base/checksum.h"
#include "engine/engine.h"

namespace kvpool {
namespace {

// With the transfer at least, whatever their size.
constexpr uint32_t transfers_min = 4;

// On top of twice the time for what is on the device.
constexpr Nanos reads_wait_max{std::chrono::milliseconds(200)};

}  // namespace

bool Engine::pump(DeviceQueue& queue) {
  bool worked = false;
  while (queue.flush() && issue_next(queue)) worked = true;
  return worked;
}

bool Engine::issue_next(DeviceQueue& queue) {
  const bool write_turn =
      !queue.has_queued(DeviceQueue::Kind::read) || queue.reads_in_a_row >= DeviceQueue::reads_per_write;
  if (write_turn && issue_prepared(queue)) {
    queue.reads_in_a_row = 0;
    return true;
  }
  if (write_turn && issue_write(queue)) {
    // Preparing is not the turn yet: the device has seen nothing of it.
    if (queue.limits().in_place) queue.reads_in_a_row = 0;
    return true;
  }
  if (write_turn && write_wants_room(queue)) return false;
  if (issue_read(queue)) {
    ++queue.reads_in_a_row;
    return true;
  }
  // A read that finds no room may wait for what a prepared write holds: that one goes out of turn.
  return issue_prepared(queue);
}

// Whether a write whose turn it is finds no room for as long as reads go on taking what is freed, a small
// piece at a time. Reads wait then: what is out comes home, and with nothing out every write has room. One
// that is being prepared needs none yet. A device that does not answer frees nothing, and an urgent read has
// no time to wait.
bool Engine::write_wants_room(DeviceQueue& queue) {
  PartHandle write = queue.prepared.head;
  if (write == no_part) {
    const Ticket* ticket = queue.issued_writes() == 0 ? queue.pick(DeviceQueue::Kind::write, now_) : nullptr;
    if (ticket == nullptr) return false;
    write = ticket->lanes[queue.id().value].parts.head;
  }
  if (!queue.has_queued(DeviceQueue::Kind::read)) return true;
  if (write != queue.write_to_wait_for) {
    queue.write_to_wait_for = write;
    queue.reads_wait_until = now_ + reads_wait_max + 2 * queue.time_for(queue.issued_bytes());
  }
  return now_ < queue.reads_go_at();
}

bool Engine::verifies(const DeviceQueue& queue) const {
  if (!queue.limits().keeps_bytes) return false;
  return options_.verify == Verify::always ||
         (options_.verify == Verify::storage && !queue.limits().in_place);
}

// Whether what was read is summed. What is staged is checked once, on its way from the drive; what stays
// where it is, perhaps by its consumer.
bool Engine::sums(const Ticket& ticket, const DeviceQueue& queue) const {
  if (ticket.unsummed && stays(ticket, queue)) return false;
  if (ticket.op != Op::stage) return verifies(queue);
  return options_.verify != Verify::none && queue.limits().keeps_bytes;
}

// Whether what a retrieve finds on the device stays there, and its consumer learns the address.
bool Engine::stays(const Ticket& ticket, const DeviceQueue& queue) {
  return ticket.places != nullptr && queue.limits().in_place;
}

// The consumer's memory for a part; null when what it named is not in its regions.
std::byte* Engine::consumer_memory(const Ticket& ticket, const TicketTable::Position& position) const {
  const RegionAddress address = ticket.buffers[uint64_t{position.block} * ticket.columns + position.column];
  return ticket.port->regions.resolve(address, position.bytes);
}

bool Engine::issue_read(DeviceQueue& queue) {
  Ticket* ticket = queue.pick(DeviceQueue::Kind::read, now_);
  if (ticket == nullptr) return false;
  const PartHandle handle = ticket->lanes[queue.id().value].parts.head;
  Part& part = table_.part(handle);
  const auto position = table_.position(handle);
  const uint32_t bytes = queue.aligned(position.bytes);
  if (!queue.may_issue(bytes) || !queue.may_start(bytes)) return false;

  std::byte* buffer = nullptr;
  if (ticket->op == Op::stage) {
    buffer = part.address;  // its new place in pool memory
  } else if (!queue.limits().in_place) {
    std::byte* destination = consumer_memory(*ticket, position);
    if (destination == nullptr) {
      queue.take(*ticket, now_);
      home(handle, Errc::invalid_argument);
      return true;
    }
    const bool direct = queue.moves_directly(destination, position.bytes) && !part.suspect;
    buffer = direct ? destination : queue.staging().take(bytes);
    if (buffer == nullptr) return false;
    part.address = buffer;
  }
  queue.take(*ticket, now_);
  queue.start(handle, IoKind::read, buffer);
  return true;
}

bool Engine::issue_write(DeviceQueue& queue) {
  Ticket* ticket = queue.pick(DeviceQueue::Kind::write, now_);
  if (ticket == nullptr) return false;
  const PartHandle handle = ticket->lanes[queue.id().value].parts.head;
  Part& part = table_.part(handle);
  const auto position = table_.position(handle);
  const uint32_t bytes = queue.aligned(position.bytes);
  if (!queue.may_issue(bytes)) return false;
  if (queue.limits().in_place) {
    if (!queue.may_start(bytes)) return false;
    queue.take(*ticket, now_);
    queue.start(handle, IoKind::write, nullptr);
    return true;
  }
  std::byte* source = consumer_memory(*ticket, position);
  if (source == nullptr) {
    queue.take(*ticket, now_);
    home(handle, Errc::invalid_argument);
    return true;
  }
  const bool direct = queue.moves_directly(source, position.bytes);
  part.address = direct ? source : queue.staging().take(bytes);
  if (part.address == nullptr) return false;
  queue.take(*ticket, now_);
  if (direct && options_.verify == Verify::none) {
    table_.push(queue.prepared, handle);
  } else {
    transfer(handle);
  }
  return true;
}

bool Engine::issue_prepared(DeviceQueue& queue) {
  if (queue.prepared.empty()) return false;
  const PartHandle handle = queue.prepared.head;
  if (table_.ticket_of(handle).state == Ticket::State::ending) {
    table_.pop(queue.prepared);
    home(handle, Errc::cancelled);
    return true;
  }
  if (!queue.may_start(queue.aligned(table_.position(handle).bytes))) return false;
  table_.pop(queue.prepared);
  queue.start(handle, IoKind::write, table_.part(handle).address);
  return true;
}

// The device is done with a part.
void Engine::arrived(DeviceQueue& queue, PartHandle handle) {
  const Part& part = table_.part(handle);
  const Ticket& ticket = table_.ticket_of(handle);
  if (part.code != Errc::ok || ticket.state == Ticket::State::ending) return home(handle, part.code);
  switch (ticket.op) {
    case Op::store:
      if (queue.limits().in_place) return transfer(handle);
      return home(handle, Errc::ok);
    case Op::stage:
      if (queue.limits().in_place) return stage_place_known(handle);
      return transfer(handle);
    default:
      break;
  }
  const bool copies =
      (queue.limits().in_place || queue.staging().owns(part.address)) && !stays(ticket, queue);
  if (!copies && !sums(ticket, queue)) return home(handle, Errc::ok);
  transfer(handle);
}

// REQUIRES: `consumer` is the consumer's memory for the part, looked up once: what it named may change. Null
// for what it has none for: what is staged, or stays.
TransferJob Engine::job_for(PartHandle handle, std::byte* consumer) {
  const Part& part = table_.part(handle);
  const Ticket& ticket = table_.ticket_of(handle);
  DeviceQueue& queue = queue_of(part);
  const auto position = table_.position(handle);
  TransferJob job{.length_bytes = position.bytes, .tag = handle.value};
  if (ticket.op == Op::store) {
    job.source = consumer;
    job.sum = verifies(queue);
    job.seed = checksum_seed(catalog_.key(ticket.stored[position.block].id), position.segment);
    if (part.address != consumer) {
      job.destination = part.address;
      job.pad_bytes = queue.aligned(position.bytes) - position.bytes;
    }
    return job;
  }
  job.source = part.address;
  job.sum = sums(ticket, queue);
  const BlockId block = ticket.op == Op::stage ? ticket.stored[position.block].id
                                               : ticket.pin.blocks()[ticket.block_first + position.block];
  job.seed = checksum_seed(catalog_.key(block), position.segment);
  if (consumer != part.address) job.destination = consumer;
  return job;
}

void Engine::transfer(PartHandle handle) {
  table_.push(queue_of(table_.part(handle)).to_transfer, handle);
  flush_transfers();
}

// The device whose part is copied next. When the copies are what bounds, the devices must advance together,
// or the fastest is left over at the end: so the part that is earliest in its ticket goes first. Every fourth
// goes by turns, so that a stream of young tickets cannot hold an old one back.
DeviceQueue* Engine::next_to_transfer() {
  constexpr uint32_t by_turns = 4;
  const bool turn = ++transfer_turn_ % by_turns == 0;
  DeviceQueue* best = nullptr;
  uint32_t best_key = UINT32_MAX;
  const size_t first = turn ? transfer_turn_ / by_turns % queues_.size() : 0;
  for (size_t i = 0; i < queues_.size(); ++i) {
    DeviceQueue& queue = queues_[(first + i) % queues_.size()];
    if (queue.to_transfer.empty()) continue;
    if (turn) return &queue;
    const PartHandle handle = queue.to_transfer.head;
    const Ticket& ticket = table_.ticket_of(handle);
    const auto position = table_.position(handle);
    constexpr uint32_t scale = 1 << 16;
    const uint32_t key = ticket.op == Op::retrieve ? position.column * scale / ticket.columns
                                                   : position.block * scale / ticket.blocks;
    if (key >= best_key) continue;
    best = &queue;
    best_key = key;
  }
  return best;
}

bool Engine::flush_transfers() {
  bool worked = false;
  const uint64_t window_bytes = transfer_window_bytes(options_.transfer_workers);
  while (transferring_bytes_ < window_bytes || transferring_ < transfers_min) {
    DeviceQueue* queue = next_to_transfer();
    if (queue == nullptr) break;
    const PartHandle handle = queue->to_transfer.head;
    const Ticket& ticket = table_.ticket_of(handle);
    if (ticket.state == Ticket::State::ending) {
      table_.pop(queue->to_transfer);
      home(handle, Errc::cancelled);
      worked = true;
      continue;
    }
    const bool needs_consumer =
        ticket.op == Op::store || (ticket.op == Op::retrieve && !stays(ticket, *queue));
    std::byte* consumer = needs_consumer ? consumer_memory(ticket, table_.position(handle)) : nullptr;
    if (needs_consumer && consumer == nullptr) {
      table_.pop(queue->to_transfer);
      home(handle, Errc::invalid_argument);
      worked = true;
      continue;
    }
    const TransferJob job = job_for(handle, consumer);
    if (!transfer_.submit(job)) break;
    table_.pop(queue->to_transfer);
    ++transferring_;
    transferring_bytes_ += job.length_bytes;
    if (job.destination != nullptr && !queue->limits().in_place) counters_.bounced_bytes += job.length_bytes;
    worked = true;
  }
  return worked;
}

void Engine::transferred(const TransferCompletion& completion) {
  const PartHandle handle(static_cast<uint32_t>(completion.tag));
  Part& part = table_.part(handle);
  const Ticket& ticket = table_.ticket_of(handle);
  DeviceQueue& queue = queue_of(part);
  --transferring_;
  transferring_bytes_ -= table_.position(handle).bytes;
  if (completion.code != Errc::ok || ticket.state == Ticket::State::ending) {
    return home(handle, completion.code);
  }
  if (ticket.op == Op::store) {
    part.sum = completion.checksum;
    if (queue.limits().in_place) return home(handle, Errc::ok);
    table_.push(queue.prepared, handle);
    return;
  }
  const auto position = table_.position(handle);
  const BlockId block = ticket.op == Op::stage ? ticket.stored[position.block].id
                                               : ticket.pin.blocks()[ticket.block_first + position.block];
  const bool right =
      !sums(ticket, queue) || completion.checksum == catalog_.checksums(block)[position.segment];
  if (right) return home(handle, Errc::ok);
  if (part.suspect || queue.limits().in_place) return home(handle, Errc::corrupt);
  // Of a block that is not wanted any more it is not worth to be known whose fault it was.
  if (position.block >= ticket.promised) return home(handle, Errc::cancelled);
  read_again(handle);
}

// A drive's bytes that do not fit their checksum are read once more, into memory of the pool's own, before
// the block is given up: the fault may have been on the way, or a consumer's that wrote to its buffer
// meanwhile.
void Engine::read_again(PartHandle handle) {
  Part& part = table_.part(handle);
  Ticket& ticket = table_.ticket_of(handle);
  std::byte* place = ticket.op == Op::stage ? part.address : nullptr;
  count_failure(Errc::corrupt);
  queue_of(part).finish(handle, now_);
  --ticket.outstanding;
  part.address = place;
  part.suspect = true;
  queue_of(part).enqueue_again(ticket, handle);
}

// A part has ended, well or not: nothing of the pool's touches its memory any more.
void Engine::home(PartHandle handle, Errc code) {
  Part& part = table_.part(handle);
  Ticket& ticket = table_.ticket_of(handle);
  const auto position = table_.position(handle);
  const std::byte* place = stays(ticket, queue_of(part)) ? part.address : nullptr;
  queue_of(part).finish(handle, now_);
  part.state = PartState::done;
  KVPOOL_ASSERT(ticket.outstanding > 0);
  --ticket.outstanding;
  progressed(ticket);
  count_failure(code);
  if (code == Errc::corrupt) queue_of(part).note_wrong_bytes();
  if (ticket.state == Ticket::State::ending) {
    if (ticket.outstanding == 0) release(ticket);
    return;
  }
  switch (ticket.op) {
    case Op::store:
      return store_home(ticket, position, code);
    case Op::stage:
      return stage_home(ticket, position, code);
    default:
      return retrieve_home(ticket, position, code, place);
  }
}

}  // namespace kvpool
