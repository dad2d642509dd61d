// Pins: runs of blocks that somebody may still touch. A pin is held by the consumer that took it until it is
// given back or that consumer closes, and is referred to by each ticket that uses it; its blocks are unpinned
// when nobody is left. Any consumer may redeem a pin by its id; an id carries a generation, so that a stale
// one is refused.
// Thread: the engine's. Memory is taken when the table is made.

#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/ids.h"
#include "catalog/catalog.h"
#include "engine/messages.h"

namespace kvpool {

class Pins;

// One reference to a pin; move-only, dropping it is the only release.
class PinRef {
 public:
  PinRef() = default;
  PinRef(PinRef&& other) noexcept : pins_(other.pins_), index_(other.index_) { other.pins_ = nullptr; }
  PinRef& operator=(PinRef&& other) noexcept {
    if (this != &other) {
      reset();
      pins_ = other.pins_;
      index_ = other.index_;
      other.pins_ = nullptr;
    }
    return *this;
  }
  PinRef(const PinRef&) = delete;
  PinRef& operator=(const PinRef&) = delete;
  ~PinRef() { reset(); }

  void reset();
  explicit operator bool() const { return pins_ != nullptr; }
  [[nodiscard]] std::span<const BlockId> blocks() const;
  [[nodiscard]] NamespaceId ns() const;

 private:
  friend class Pins;
  PinRef(Pins* pins, uint32_t index) : pins_(pins), index_(index) {}

  Pins* pins_ = nullptr;
  uint32_t index_ = 0;
};

class Pins {
 public:
  // Room for `held_max` pins of consumers and `internal_max` of tickets that brought keys instead.
  Pins(Catalog& catalog, uint32_t held_max, uint32_t internal_max, uint32_t blocks_max);

  // Matches keys and pins what was found. ok, and `out` refers to it; miss, when there is nothing; busy, when
  // the table is full.
  [[nodiscard]] Errc match(NamespaceId ns, BlockId parent, std::span<const BlockKey> keys, PinRef& out);

  // Lets a consumer hold what `ref` refers to; PinId{} when held_max pins are held already.
  [[nodiscard]] PinId hold(const PinRef& ref, ConsumerId holder);
  // A reference to a held pin; empty if the id is stale or was never given out.
  [[nodiscard]] PinRef find(PinId id);
  // The holder gives it back. False if the id is stale.
  bool drop(PinId id);
  void drop_all(ConsumerId holder);

  [[nodiscard]] uint32_t held() const { return held_; }
  [[nodiscard]] uint32_t in_use() const { return in_use_; }

 private:
  friend class PinRef;

  struct Pin {
    uint32_t generation = 1;
    uint32_t references = 0;  // one of them is the holder's
    uint32_t count = 0;
    NamespaceId ns;
    ConsumerId holder;
    bool is_held = false;
  };

  [[nodiscard]] std::span<BlockId> storage(uint32_t index) {
    return {blocks_.get() + uint64_t{index} * blocks_max_, blocks_max_};
  }
  [[nodiscard]] Pin* lookup(PinId id);
  void release(uint32_t index);

  Catalog& catalog_;
  uint32_t held_max_;
  uint32_t blocks_max_;
  uint32_t held_ = 0;
  uint32_t in_use_ = 0;
  std::vector<Pin> pins_;
  std::vector<uint32_t> free_;
  std::unique_ptr<BlockId[]> blocks_;
};

}  // namespace kvpool
