// ConsumerPort: the engine's end of one consumer. The channel and the regions are all that the consumer can
// touch; nothing that it writes there is trusted.
//
// Threads: `channel`, `to_consumer` and the region table are shared between the consumer's thread and the
// engine's as said at each; everything under `engine only` belongs to the engine's thread.

#pragma once

#include <array>
#include <atomic>
#include <bitset>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/wakeup.h"
#include "engine/messages.h"

namespace kvpool {

// Memory that a consumer lets the pool read and write. Entries are added by the consumer's thread, never
// changed; the count is published after the entry.
class Regions {
 public:
  // Consumer's thread. False when the table is full.
  [[nodiscard]] bool add(std::span<std::byte> region) {
    const uint32_t count = count_.load(std::memory_order_relaxed);
    if (count == regions_max) return false;
    regions_[count] = region;
    count_.store(count + 1, std::memory_order_release);
    return true;
  }

  // Any of the two threads. Null unless [address, address + bytes) lies in one region.
  [[nodiscard]] std::byte* resolve(RegionAddress address, uint64_t bytes) const {
    const uint64_t region = address.value >> 48;
    const uint64_t offset = address.value & ((uint64_t{1} << 48) - 1);
    if (region >= count_.load(std::memory_order_acquire)) return nullptr;
    const auto& memory = regions_[region];
    if (offset > memory.size() || bytes > memory.size() - offset) return nullptr;
    return memory.data() + offset;
  }

  // An array of `count` T at `address`, or null: outside, or misaligned.
  template <class T>
  [[nodiscard]] T* resolve_array(RegionAddress address, uint64_t count) const {
    std::byte* bytes = resolve(address, count * sizeof(T));
    if (bytes == nullptr || reinterpret_cast<uintptr_t>(bytes) % alignof(T) != 0) return nullptr;
    return reinterpret_cast<T*>(bytes);
  }

  // Consumer's thread. no_address when the pointer lies in no region.
  [[nodiscard]] RegionAddress address_of(const void* pointer) const {
    const auto* byte = static_cast<const std::byte*>(pointer);
    const uint32_t count = count_.load(std::memory_order_relaxed);
    for (uint32_t i = 0; i < count; ++i) {
      const auto& memory = regions_[i];
      if (byte >= memory.data() && byte < memory.data() + memory.size()) {
        return RegionAddress((uint64_t{i} << 48) | static_cast<uint64_t>(byte - memory.data()));
      }
    }
    return no_address;
  }

 private:
  std::array<std::span<std::byte>, regions_max> regions_{};
  std::atomic<uint32_t> count_{0};
};

struct ConsumerPort {
  Channel channel;
  Wakeup to_consumer;
  Regions regions;
  std::string name;
  std::atomic<bool> drained{false};  // set by the engine once a closing consumer holds nothing any more

  // engine only
  ConsumerId id;
  bool closing = false;
  bool has_news = false;  // to be notified at the end of the step
  uint32_t tickets = 0;
  uint32_t owed = 0;  // completions that its tickets have still to post
  std::bitset<slots_max> slots_in_use;
};

}  // namespace kvpool
