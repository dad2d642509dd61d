#include "engine/staging.h"

#include <algorithm>

#include "base/assert.h"

namespace kvpool {

namespace {

std::span<std::byte> whole_units(std::span<std::byte> memory, uint32_t unit_bytes) {
  const size_t skip = (unit_bytes - reinterpret_cast<uintptr_t>(memory.data()) % unit_bytes) % unit_bytes;
  if (skip >= memory.size()) return {};
  return memory.subspan(skip, (memory.size() - skip) / unit_bytes * unit_bytes);
}

}  // namespace

Staging::Staging(std::span<std::byte> memory, uint32_t alignment_bytes)
    : unit_bytes_(std::max(unit_bytes_min, alignment_bytes)),
      memory_(whole_units(memory, unit_bytes_)),
      taken_(memory_.size() / unit_bytes_, 0) {}

// Whether [first, first + units) is free; if not, blocked_at is the first unit behind the run in the way.
bool Staging::fits(uint32_t first, uint32_t units, uint32_t& blocked_at) const {
  for (uint32_t unit = first; unit < first + units; ++unit) {
    if (taken_[unit] == 0) continue;
    blocked_at = unit + (taken_[unit] == inside ? 1 : taken_[unit]);
    return false;
  }
  return true;
}

std::byte* Staging::take(uint32_t bytes) {
  const uint32_t units = units_of(bytes);
  const auto total = static_cast<uint32_t>(taken_.size());
  if (units == 0 || units > total - used_units_) return nullptr;
  // Two sweeps: from next_ to the end, then from the beginning.
  for (uint32_t sweep = 0; sweep < 2; ++sweep) {
    uint32_t first = sweep == 0 ? next_ : 0;
    while (first + units <= total) {
      uint32_t blocked_at = 0;
      if (fits(first, units, blocked_at)) {
        taken_[first] = units;
        for (uint32_t unit = first + 1; unit < first + units; ++unit) taken_[unit] = inside;
        used_units_ += units;
        next_ = first + units == total ? 0 : first + units;
        return memory_.data() + uint64_t{first} * unit_bytes_;
      }
      first = blocked_at;
    }
  }
  return nullptr;
}

void Staging::give_back(const std::byte* address, uint32_t bytes) {
  const auto first = static_cast<uint32_t>((address - memory_.data()) / unit_bytes_);
  const uint32_t units = units_of(bytes);
  KVPOOL_ASSERT(owns(address) && taken_[first] == units);
  for (uint32_t unit = first; unit < first + units; ++unit) taken_[unit] = 0;
  used_units_ -= units;
}

}  // namespace kvpool
