// kvpool_consumer: the consumer's end of its channel. Takes a slot for each request, so that its two
// completions always have room, and turns pointers into region addresses.
// Thread: the consumer's one thread; close() says which.

#pragma once

#include <array>
#include <vector>

#include "api/pool.h"
#include "engine/port.h"
#include "kvpool/kvpool.h"

struct kvpool_consumer {
  kvpool_consumer(kvpool_pool& its_pool, const char* name, std::span<std::byte> its_region);

  [[nodiscard]] kvpool_status submit(kvpool::Op op, const kvpool_request* request, kvpool_ticket* ticket);
  [[nodiscard]] kvpool_status cancel(kvpool_ticket ticket);
  [[nodiscard]] uint32_t poll(kvpool_completion* out, uint32_t max);
  void wait(uint64_t timeout_us);
  [[nodiscard]] bool arm();
  [[nodiscard]] uint32_t progress(kvpool_ticket ticket) const;

  kvpool_pool& pool;
  kvpool::ConsumerPort port;
  std::span<std::byte> region;

 private:
  struct Slot {
    uint64_t user_data = 0;
    uint32_t generation = 1;
    bool under_way = false;
    bool cancelled = false;
  };

  [[nodiscard]] bool fill(kvpool::Op op, const kvpool_request& request, kvpool::Submission& out) const;
  [[nodiscard]] kvpool_ticket ticket_of(uint16_t slot) const {
    return (uint64_t{slots_[slot].generation} << 16) | slot;
  }
  // Null when the ticket has ended.
  [[nodiscard]] const Slot* find(kvpool_ticket ticket) const;

  std::array<Slot, kvpool::slots_max> slots_{};
  std::vector<uint16_t> free_slots_;
  bool armed_ = false;      // the event descriptor may be readable; the next poll empties it
  uint32_t news_seen_ = 0;  // the channel's counter at the last poll or wait
};
