#include "bench/pooled_system.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>

#include "base/log.h"
#include "base/units.h"
#include "bench/payload.h"

namespace kvpool::bench {
namespace {

constexpr uint32_t questions_max = 16;
// Buffers in the ring: a question alone has eight, so that while one is looked at seven are under way; many
// have four each.
constexpr uint32_t slots_alone = 8;
constexpr uint32_t slots_each = 4;
constexpr uint32_t slots_max_in_ring = questions_max * slots_each;
constexpr Nanos ticket_timeout = std::chrono::seconds(120);
constexpr Nanos wait_max = std::chrono::milliseconds(100);

uint32_t ring_slots(uint32_t concurrency) { return std::max(slots_alone, slots_each * concurrency); }

uint64_t padded(uint32_t segment_bytes) { return round_up(segment_bytes, payload_page_bytes); }

// Padded bytes that a document's retrieve delivers of one segment.
uint64_t column_bytes(const Documents& documents, uint32_t segment) {
  const Geometry& geometry = documents.geometry();
  return padded(geometry.segment_bytes[segment]) * (geometry.is_window(segment) ? 1 : documents.blocks());
}

// As many buffers as the ring should have, but each holds a segment.
uint32_t slots_for(const Documents& documents, uint32_t concurrency, uint64_t data_bytes) {
  uint32_t largest = 0;
  for (const uint32_t bytes : documents.geometry().segment_bytes) largest = std::max(largest, bytes);
  return static_cast<uint32_t>(std::min<uint64_t>(ring_slots(concurrency), data_bytes / padded(largest)));
}

uint64_t table_bytes(const Documents& documents) {
  const uint64_t entries = uint64_t{documents.blocks()} * documents.geometry().segments();
  return questions_max * documents.blocks() * sizeof(kvpool_key) +
         slots_max_in_ring * entries * sizeof(uint64_t) + 4 * payload_page_bytes;
}

}  // namespace

uint64_t consumer_buffer_bytes(const Documents& documents) {
  constexpr uint64_t usual = 256ULL << 20;
  constexpr uint64_t blocks = 8;  // four workers with a chunk each, and as many being looked at or waiting
  return std::max(std::min(usual, documents.count() * documents.stored_bytes()),
                  blocks * documents.padded_block_bytes());
}

std::vector<LayerUnit> layer_units(const Documents& documents, uint64_t unit_bytes_max) {
  std::vector<LayerUnit> units;
  uint64_t joined_bytes = unit_bytes_max;  // of the last unit; full: the next segment starts one
  for (uint32_t s = 0; s < documents.geometry().segments(); ++s) {
    const uint64_t bytes = column_bytes(documents, s);
    if (joined_bytes + bytes <= unit_bytes_max) {
      ++units.back().segment_count;
      joined_bytes += bytes;
      continue;
    }
    if (bytes <= unit_bytes_max) {
      units.push_back({s, 1, 0, documents.blocks()});
      joined_bytes = bytes;
      continue;
    }
    const auto each = static_cast<uint32_t>(unit_bytes_max / padded(documents.geometry().segment_bytes[s]));
    for (uint32_t b = 0; b < documents.blocks(); b += each) {
      units.push_back({s, 1, b, std::min(each, documents.blocks() - b)});
    }
    joined_bytes = unit_bytes_max;
  }
  return units;
}

Result<std::unique_ptr<System>> PooledSystem::open(Machine& machine, Config config, const Profile& profile,
                                                   const Documents& documents, StoragePath path) {
  std::unique_ptr<PooledSystem> system(new PooledSystem(documents));
  const bool files = path == StoragePath::files;
  DeviceHooks hooks = meter_hooks(*system->meters_, files);
  if (files) {
    system->files_ = std::make_unique<FilesStorage>();
    hooks.make_storage = [&](const DeviceConfig& device) {
      return system->files_->make(device, documents.padded_block_bytes());
    };
  }
  const uint64_t data_bytes = consumer_buffer_bytes(documents);
  config.buffer_bytes = round_up(data_bytes + table_bytes(documents), 2ULL << 20);
  config.limits.tickets = std::max(config.limits.tickets, slots_max_in_ring + questions_max);
  auto handle = machine.open_pool(config, profile, hooks);
  if (!handle) return tl::unexpected(handle.error());
  system->pool_.emplace(Pool::adopt(*handle));
  auto ns = system->pool_->open_namespace(documents.geometry(), false);
  if (!ns) return tl::unexpected(ns.error());
  system->namespace_ = *ns;
  auto consumer = Consumer::open(*system->pool_, "longdoc", config.buffer_bytes);
  if (!consumer) return tl::unexpected(consumer.error());
  system->consumer_.emplace(std::move(*consumer));
  if (auto taken = system->take_region(data_bytes); !taken) return tl::unexpected(taken.error());
  return system;
}

Status PooledSystem::take_region(uint64_t data_bytes) {
  const uint64_t entries = uint64_t{documents_.blocks()} * documents_.geometry().segments();
  auto data = consumer_->allocate(data_bytes);
  if (!data) return tl::unexpected(data.error());
  auto keys = consumer_->allocate_array<kvpool_key>(uint64_t{questions_max} * documents_.blocks());
  if (!keys) return tl::unexpected(keys.error());
  auto addresses = consumer_->allocate_array<uint64_t>(slots_max_in_ring * entries);
  if (!addresses) return tl::unexpected(addresses.error());
  data_ = *data;
  keys_ = *keys;
  addresses_ = *addresses;
  return {};
}

Status PooledSystem::store() {
  for (uint32_t d = 0; d < documents_.count(); ++d) {
    if (auto stored = store_document(d); !stored) return stored;
  }
  const uint64_t evicted = pool_->settled_stats().evicted_blocks;
  if (evicted == 0) return {};
  return fail(Errc::too_large,
              fmt::format("the documents take {}, and the pool evicted {} blocks to make "
                          "room; give it larger devices, or fewer --documents or --tokens",
                          format_bytes(documents_.count() * documents_.stored_bytes()), evicted));
}

// In batches of half the buffers: while one is stored the next is made.
Status PooledSystem::store_document(uint32_t document) {
  const Geometry& geometry = documents_.geometry();
  const uint64_t half_bytes = data_.size() / 2;
  const auto batch = static_cast<uint32_t>(
      std::min<uint64_t>(half_bytes / documents_.padded_block_bytes(), documents_.blocks()));
  for (uint32_t b = 0; b < documents_.blocks(); ++b) keys_[b] = to_api(documents_.key(document, b));
  Ticket stored;
  uint32_t stored_blocks = 0;
  for (uint32_t first = 0; first < documents_.blocks(); first += batch) {
    const uint32_t half = (first / batch) % 2;
    const uint32_t blocks = std::min(batch, documents_.blocks() - first);
    const auto addresses = addresses_.subspan(half * addresses_.size() / 2, blocks * geometry.segments());
    uint64_t offset = half * half_bytes;
    for (uint32_t b = 0; b < blocks; ++b) {
      for (uint32_t s = 0; s < geometry.segments(); ++s) {
        const auto segment = data_.subspan(offset, geometry.segment_bytes[s]);
        fill_payload(segment, documents_.key(document, first + b), s);
        addresses[b * geometry.segments() + s] = consumer_->address(segment.data());
        offset += padded(geometry.segment_bytes[s]);
      }
    }
    if (stored.valid()) {
      if (auto done = wait_for_store(stored, stored_blocks); !done) return done;
    }
    Request request(RequestKind::store, namespace_);
    request.keys(keys_.subspan(first, blocks)).buffers(addresses).timeout(ticket_timeout);
    if (first > 0) request.parent(keys_[first - 1]);
    const auto ticket = consumer_->submit(request);
    if (!ticket) return tl::unexpected(ticket.error());
    stored = *ticket;
    stored_blocks = blocks;
  }
  return wait_for_store(stored, stored_blocks);
}

Status PooledSystem::wait_for_store(Ticket ticket, uint32_t blocks) {
  const auto outcome = consumer_->finish(ticket);
  if (!outcome) return tl::unexpected(outcome.error());
  if (outcome->code == Errc::ok && outcome->blocks == blocks) return {};
  return fail(
      outcome->code == Errc::ok ? Errc::rejected : outcome->code,
      fmt::format(
          "the pool stored {} of {} blocks: {}{}", outcome->blocks, blocks, to_string(outcome->code),
          outcome->code == Errc::rejected ? "; make the devices larger, or the documents fewer" : ""));
}

Status PooledSystem::make_cold(bool again) { return files_ ? files_->make_cold(again) : Status{}; }

// The questions of one ask(): which are under way, what their tickets bring and where to.
class PooledSystem::Session {
 public:
  Session(PooledSystem& system, std::span<const uint32_t> order, uint32_t concurrency, Check check)
      : system_(system),
        documents_(system.documents_),
        order_(order),
        concurrency_(concurrency),
        slots_(slots_for(documents_, concurrency, system.data_.size())),
        slot_bytes_(system.data_.size() / slots_ / payload_page_bytes * payload_page_bytes),
        units_(layer_units(documents_, slot_bytes_)),
        checker_(documents_, static_cast<uint32_t>(order.size()), check) {
    for (uint32_t i = 0; i < slots_; ++i) free_slots_.push_back(i);
    for (uint32_t i = 0; i < concurrency; ++i) free_rows_.push_back(i);
    asked_.latencies.resize(order.size());
  }

  [[nodiscard]] Result<Asked> run() {
    asked_.begin = clock_.now();
    while (answered_ < order_.size()) {
      while (active_.size() < concurrency_ && next_question_ < order_.size()) {
        if (auto started = start(); !started) return tl::unexpected(started.error());
      }
      if (auto sent = send_units(); !sent) return tl::unexpected(sent.error());
      consumer().poll();
      const auto taken = take_units();
      if (!taken) return tl::unexpected(taken.error());
      if (*taken == 0 && !flights_.empty()) consumer().wait(wait_max);
    }
    asked_.wall = clock_.now() - asked_.begin;
    asked_.bytes = order_.size() * documents_.delivered_bytes();
    asked_.wrong_blocks = checker_.wrong_blocks();
    return asked_;
  }

 private:
  struct Question {
    uint32_t number = 0;
    uint32_t row = 0;  // of the key table
    Nanos begin{0};
    kvpool_pin pin = 0;
    uint32_t next_unit = 0;
    uint32_t in_flight = 0;
  };
  struct Flight {
    Ticket ticket;
    uint32_t question = 0;  // its number
    uint32_t unit = 0;
    uint32_t slot = 0;
  };

  [[nodiscard]] Consumer& consumer() { return *system_.consumer_; }
  [[nodiscard]] uint32_t document_of(uint32_t question) const { return order_[question]; }

  [[nodiscard]] Status start() {
    Question question{.number = next_question_++, .row = free_rows_.back(), .begin = clock_.now()};
    free_rows_.pop_back();
    const auto keys = system_.keys_.subspan(size_t{question.row} * documents_.blocks(), documents_.blocks());
    for (uint32_t b = 0; b < documents_.blocks(); ++b) {
      keys[b] = to_api(documents_.key(document_of(question.number), b));
    }
    const auto matched =
        consumer().run(Request(RequestKind::match, system_.namespace_).keys(keys).flags(KVPOOL_PIN));
    if (!matched) return tl::unexpected(matched.error());
    question.pin = matched->pin;
    if (matched->blocks < documents_.blocks()) {
      log_warn("document {}: the pool has {} of {} blocks", document_of(question.number), matched->blocks,
               documents_.blocks());
      question.next_unit = static_cast<uint32_t>(units_.size());  // all of it counts as wrong
    }
    active_.push_back(question);
    return question.next_unit == 0 ? Status{} : finish_if_done(active_.size() - 1);
  }

  // Gives free slots to the questions in turn.
  [[nodiscard]] Status send_units() {
    const uint32_t share = std::max(1U, slots_ / concurrency_);
    bool sent = true;
    while (sent && !free_slots_.empty()) {
      sent = false;
      for (Question& question : active_) {
        if (free_slots_.empty()) break;
        if (question.in_flight >= share || question.next_unit == units_.size()) continue;
        if (auto done = send_unit(question); !done) return done;
        sent = true;
      }
    }
    return {};
  }

  [[nodiscard]] Status send_unit(Question& question) {
    const LayerUnit& unit = units_[question.next_unit];
    const uint32_t slot = free_slots_.front();
    std::byte* at = system_.data_.data() + slot * slot_bytes_;
    const auto addresses = address_table(slot).first(size_t{unit.blocks} * unit.segment_count);
    for (uint32_t b = 0; b < unit.blocks; ++b) {
      for (uint32_t s = 0; s < unit.segment_count; ++s) {
        uint64_t& address = addresses[size_t{b} * unit.segment_count + s];
        address = UINT64_MAX;
        if (!documents_.is_delivered(unit.block_first + b, unit.segment_first + s)) continue;
        address = consumer().address(at);
        at += padded(documents_.geometry().segment_bytes[unit.segment_first + s]);
      }
    }
    Request request(RequestKind::retrieve, system_.namespace_);
    request.pinned(question.pin, unit.block_first, unit.blocks)
        .segments(unit.segment_first, unit.segment_count)
        .buffers(addresses)
        .timeout(ticket_timeout);
    const auto ticket = consumer().submit(request);
    if (!ticket) return tl::unexpected(ticket.error());
    free_slots_.pop_front();
    flights_.push_back({*ticket, question.number, question.next_unit++, slot});
    ++question.in_flight;
    return {};
  }

  // Looks at what has arrived; returns how many units.
  [[nodiscard]] Result<uint32_t> take_units() {
    uint32_t taken = 0;
    for (size_t i = 0; i < flights_.size();) {
      if (!consumer().is_released(flights_[i].ticket)) {
        ++i;
        continue;
      }
      const Flight flight = flights_[i];
      flights_.erase(flights_.begin() + static_cast<std::ptrdiff_t>(i));
      if (auto done = take_unit(flight); !done) return tl::unexpected(done.error());
      ++taken;
      // What was freed goes out again before the next one is looked at.
      if (auto sent = send_units(); !sent) return tl::unexpected(sent.error());
    }
    return taken;
  }

  [[nodiscard]] Status take_unit(const Flight& flight) {
    const auto outcome = consumer().finish(flight.ticket);
    if (!outcome) return tl::unexpected(outcome.error());
    const LayerUnit& unit = units_[flight.unit];
    if (outcome->code != Errc::ok || outcome->blocks < unit.blocks) {
      log_warn("document {}: a retrieve brought {} of {} blocks: {}", document_of(flight.question),
               outcome->blocks, unit.blocks, to_string(outcome->code));
    }
    look(flight, unit, outcome->blocks);
    free_slots_.push_back(flight.slot);
    for (size_t i = 0; i < active_.size(); ++i) {
      if (active_[i].number != flight.question) continue;
      --active_[i].in_flight;
      return finish_if_done(i);
    }
    return {};
  }

  void look(const Flight& flight, const LayerUnit& unit, uint32_t blocks) {
    const std::byte* at = system_.data_.data() + flight.slot * slot_bytes_;
    for (uint32_t b = 0; b < blocks; ++b) {
      for (uint32_t s = 0; s < unit.segment_count; ++s) {
        const uint32_t block = unit.block_first + b;
        const uint32_t segment = unit.segment_first + s;
        if (!documents_.is_delivered(block, segment)) continue;
        const uint32_t bytes = documents_.geometry().segment_bytes[segment];
        checker_.look(flight.question, document_of(flight.question), block, segment, {at, bytes});
        at += padded(bytes);
      }
    }
  }

  [[nodiscard]] Status finish_if_done(size_t index) {
    const Question question = active_[index];
    if (question.in_flight > 0 || question.next_unit < units_.size()) return {};
    active_.erase(active_.begin() + static_cast<std::ptrdiff_t>(index));
    asked_.latencies[question.number] = clock_.now() - question.begin;
    ++answered_;
    free_rows_.push_back(question.row);
    if (question.pin == 0) return {};
    const auto unpinned = consumer().run(Request(RequestKind::unpin, system_.namespace_).pin(question.pin));
    return unpinned ? Status{} : Status(tl::unexpected(unpinned.error()));
  }

  [[nodiscard]] std::span<uint64_t> address_table(uint32_t slot) const {
    const uint64_t entries = uint64_t{documents_.blocks()} * documents_.geometry().segments();
    return system_.addresses_.subspan(slot * entries, entries);
  }

  PooledSystem& system_;
  const Documents& documents_;
  std::span<const uint32_t> order_;
  uint32_t concurrency_;
  uint32_t slots_;
  uint64_t slot_bytes_;
  std::vector<LayerUnit> units_;
  Checker checker_;
  SteadyClock clock_;
  std::deque<uint32_t> free_slots_;  // used in turn
  std::vector<uint32_t> free_rows_;
  std::vector<Question> active_;
  std::vector<Flight> flights_;
  uint32_t next_question_ = 0;
  uint32_t answered_ = 0;
  Asked asked_;
};

Result<Asked> PooledSystem::ask(std::span<const uint32_t> order, uint32_t concurrency, Check check) {
  return Session(*this, order, concurrency, check).run();
}

std::vector<double> PooledSystem::planned_shares() const {
  std::vector<double> shares;
  for (const kvpool_device_stats& device : pool_->device_stats()) shares.push_back(device.planned_share);
  return shares;
}

SystemUse PooledSystem::use() const { return use_of(*meters_, files_.get()); }

}  // namespace kvpool::bench
