// Messages between a consumer and the engine, and the channel they travel on. Fixed-size, no pointers: keys,
// buffers and data are named by region and offset, so that the same structs serve a consumer in another
// process over shared memory.

#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "base/ids.h"
#include "base/result.h"
#include "base/ring.h"

namespace kvpool {

// region << 48 | offset. Region 0 is the consumer's part of the arena.
using RegionAddress = Id<struct RegionAddressTag, uint64_t>;
inline constexpr RegionAddress no_address{UINT64_MAX};
inline constexpr uint32_t regions_max = 16;

// A pin's index and generation; 0 is none.
using PinId = Id<struct PinIdTag, uint64_t>;

enum class Op : uint8_t { match, retrieve, store, stage, estimate, remove, unpin, cancel };

inline constexpr uint8_t flag_pin = 1;
inline constexpr uint8_t flag_take_pin = 2;
inline constexpr uint8_t flag_has_parent = 4;
inline constexpr uint8_t flag_in_place = 8;
inline constexpr uint8_t flag_unsummed = 16;

// What a segment's bytes must be; both 0: that is not asked.
struct Check {
  uint64_t seed = 0;
  uint64_t sum = 0;
};

struct Submission {
  uint64_t user_data = 0;
  RegionAddress keys = no_address;     // BlockKey[blocks]
  RegionAddress buffers = no_address;  // RegionAddress[blocks][segment_count]
  RegionAddress places = no_address;   // in place: const void*[blocks][segment_count], to be written
  RegionAddress checks = no_address;   // in place, or none: Check[blocks][segment_count], to be written
  PinId pin;                           // of cancel: the ticket's slot
  BlockKey parent;
  uint64_t timeout_ns = 0;
  uint32_t blocks = 0;
  uint32_t block_first = 0;
  uint16_t segment_first = 0;
  uint16_t segment_count = 0;
  NamespaceId ns;
  uint16_t slot = 0;  // the consumer's slot for this ticket: where progress is shown
  Op op = Op::match;
  uint8_t flags = 0;
  std::array<uint8_t, 6> reserved{};
};
static_assert(sizeof(Submission) == 96);

enum class CompletionKind : uint8_t { result = 1, release = 2 };

struct Completion {
  uint64_t user_data = 0;
  PinId pin;
  uint64_t bytes = 0;
  uint64_t estimate_ns = 0;
  uint32_t blocks = 0;
  uint32_t segments = 0;
  uint16_t slot = 0;
  CompletionKind kind = CompletionKind::result;
  Errc code = Errc::ok;
  uint32_t reserved = 0;
};
static_assert(sizeof(Completion) == 48);

// One consumer's rings and progress counters. The consumer takes a slot for each request and keeps it until
// the release, so a completion ring of twice the slots always has room.
inline constexpr uint32_t slots_max = 256;

struct Channel {
  SpscRing<Submission, slots_max * 2> submissions;  // requests, and as many cancels
  SpscRing<Completion, slots_max * 2> completions;
  // Complete leading segments of each slot's retrieve.
  std::array<std::atomic<uint32_t>, slots_max> progress{};
  std::atomic<uint32_t> news{0};  // grows whenever completions or progress were added
};

}  // namespace kvpool
