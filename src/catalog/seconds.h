// Seconds: which blocks have a second residence, where, and in what order they got it. A second residence is
// a cache on one device; the first stays where it is. The oldest that nobody pins gives way first.
//
// Thread: its owner's. Memory: taken in open().

#pragma once

#include <array>
#include <cstdint>

#include "base/assert.h"
#include "base/ids.h"
#include "catalog/array.h"
#include "catalog/blocks.h"

namespace kvpool {

// abandoned: never to be published, and something may still be written there.
enum class SecondState : uint8_t { absent, reserved, published, abandoned };

class Seconds {
 public:
  struct Second {
    uint32_t cell;  // of its extents
    uint32_t older;
    uint32_t newer;
    DeviceId device;
    SecondState state;
  };
  static_assert(sizeof(Second) == 16);

  // Without open() no block has a second residence.
  [[nodiscard]] Status open(uint32_t blocks_max, uint32_t segments);

  [[nodiscard]] bool opened() const { return seconds_.size() > 0; }
  [[nodiscard]] SecondState state(BlockId block) const {
    return opened() ? seconds_[block.value].state : SecondState::absent;
  }
  [[nodiscard]] const Second& operator[](BlockId block) const { return seconds_[block.value]; }
  [[nodiscard]] bool has(BlockId block, uint32_t segment) const {
    return ((words_[block.value * uint64_t{stride_} + segment / 64] >> (segment % 64)) & 1) != 0;
  }
  // Clears the segments and sets the device; add() comes when the extents are there.
  void prepare(BlockId block, DeviceId device);
  void want(BlockId block, uint32_t segment) {
    words_[block.value * uint64_t{stride_} + segment / 64] |= 1ULL << (segment % 64);
  }
  void add(BlockId block, uint32_t cell);  // REQUIRES: prepared, absent
  void publish(BlockId block);             // REQUIRES: reserved
  void abandon(BlockId block);             // REQUIRES: reserved
  // Forgets it; returns the first cell of its extents. REQUIRES: not absent.
  [[nodiscard]] uint32_t remove(BlockId block);
  // Makes it the newest of its device.
  void renew(BlockId block);

  [[nodiscard]] BlockId oldest(DeviceId device) const { return oldest_[device.value]; }
  [[nodiscard]] uint32_t count() const { return count_; }
  [[nodiscard]] uint64_t bytes_per_block() const {
    return opened() ? sizeof(Second) + stride_ * sizeof(uint64_t) : 0;
  }
  void check(const Blocks& blocks) const;

 private:
  void link(BlockId block);
  void unlink(BlockId block);

  HugeArray<Second> seconds_;
  HugeArray<uint64_t> words_;  // bits of the segments, stride_ words a block
  uint32_t stride_ = 0;
  uint32_t count_ = 0;
  std::array<BlockId, devices_max> oldest_{};
  std::array<BlockId, devices_max> newest_{};
};

}  // namespace kvpool
