#include "engine/pins.h"

#include "base/assert.h"

namespace kvpool {

void PinRef::reset() {
  if (pins_ != nullptr) pins_->release(index_);
  pins_ = nullptr;
}

std::span<const BlockId> PinRef::blocks() const {
  return pins_->storage(index_).first(pins_->pins_[index_].count);
}

NamespaceId PinRef::ns() const { return pins_->pins_[index_].ns; }

Pins::Pins(Catalog& catalog, uint32_t held_max, uint32_t internal_max, uint32_t blocks_max)
    : catalog_(catalog),
      held_max_(held_max),
      blocks_max_(blocks_max),
      pins_(held_max + internal_max),
      blocks_(std::make_unique_for_overwrite<BlockId[]>(uint64_t{held_max + internal_max} * blocks_max)) {
  for (uint32_t i = held_max + internal_max; i > 0; --i) free_.push_back(i - 1);
}

Errc Pins::match(NamespaceId ns, BlockId parent, std::span<const BlockKey> keys, PinRef& out) {
  if (free_.empty()) return Errc::busy;
  const uint32_t index = free_.back();
  const std::span<BlockId> blocks = storage(index);
  KVPOOL_ASSERT(keys.size() <= blocks.size());
  const uint32_t matched = catalog_.match(ns, parent, keys, blocks);
  if (matched == 0) return Errc::miss;
  for (const BlockId block : blocks.first(matched)) catalog_.pin(block);
  free_.pop_back();
  ++in_use_;
  Pin& pin = pins_[index];
  pin.references = 1;
  pin.count = matched;
  pin.ns = ns;
  out = PinRef(this, index);
  return Errc::ok;
}

PinId Pins::hold(const PinRef& ref, ConsumerId holder) {
  Pin& pin = pins_[ref.index_];
  KVPOOL_ASSERT(!pin.is_held);
  if (held_ == held_max_) return {};
  ++held_;
  ++pin.references;
  pin.is_held = true;
  pin.holder = holder;
  return PinId((uint64_t{pin.generation} << 32) | ref.index_);
}

Pins::Pin* Pins::lookup(PinId id) {
  const auto index = static_cast<uint32_t>(id.value);
  if (index >= pins_.size()) return nullptr;
  Pin& pin = pins_[index];
  return pin.is_held && pin.generation == id.value >> 32 ? &pin : nullptr;
}

PinRef Pins::find(PinId id) {
  Pin* pin = lookup(id);
  if (pin == nullptr) return {};
  ++pin->references;
  return {this, static_cast<uint32_t>(id.value)};
}

bool Pins::drop(PinId id) {
  Pin* pin = lookup(id);
  if (pin == nullptr) return false;
  pin->is_held = false;
  --held_;
  release(static_cast<uint32_t>(id.value));
  return true;
}

void Pins::drop_all(ConsumerId holder) {
  for (uint32_t i = 0; i < pins_.size(); ++i) {
    if (pins_[i].is_held && pins_[i].holder == holder) drop(PinId((uint64_t{pins_[i].generation} << 32) | i));
  }
}

void Pins::release(uint32_t index) {
  Pin& pin = pins_[index];
  KVPOOL_ASSERT(pin.references > 0);
  if (--pin.references > 0) return;
  for (const BlockId block : storage(index).first(pin.count)) catalog_.unpin(block);
  pin.count = 0;
  if (++pin.generation == 0) pin.generation = 1;  // an id is never 0
  --in_use_;
  free_.push_back(index);
}

}  // namespace kvpool
