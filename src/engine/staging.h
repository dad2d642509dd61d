// Staging: one device's part of the staging memory, handed out in runs of units: 4 KiB, or the device's
// alignment if that is larger. Each device has its
// own, so that a busy device cannot starve another of room. A failed take is back-pressure.
// Thread: the engine's.

#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace kvpool {

class Staging {
 public:
  static constexpr uint32_t unit_bytes_min = 4096;

  Staging() = default;
  // What of the memory does not fill aligned units is not used. REQUIRES: alignment_bytes is a power of two.
  explicit Staging(std::span<std::byte> memory, uint32_t alignment_bytes = 1);

  // Null when there is no run that long now.
  [[nodiscard]] std::byte* take(uint32_t bytes);
  // REQUIRES: exactly what take() returned for `bytes`.
  void give_back(const std::byte* address, uint32_t bytes);
  [[nodiscard]] bool owns(const std::byte* address) const {
    return address >= memory_.data() && address < memory_.data() + memory_.size();
  }
  [[nodiscard]] uint64_t size_bytes() const { return memory_.size(); }
  [[nodiscard]] uint64_t used_bytes() const { return uint64_t{used_units_} * unit_bytes_; }

 private:
  [[nodiscard]] uint32_t units_of(uint32_t bytes) const { return (bytes + unit_bytes_ - 1) / unit_bytes_; }

  // Runs are taken in ring order from `next_`, and most are given back in about that order, so the search
  // looks at few units. taken_[i] holds the length of the run that starts at unit i, 0 if it is free, and
  // `inside` for a unit within a run.
  static constexpr uint32_t inside = UINT32_MAX;
  [[nodiscard]] bool fits(uint32_t first, uint32_t units, uint32_t& blocked_at) const;

  uint32_t unit_bytes_ = unit_bytes_min;
  std::span<std::byte> memory_;
  std::vector<uint32_t> taken_;
  uint32_t next_ = 0;
  uint32_t used_units_ = 0;
};

}  // namespace kvpool
