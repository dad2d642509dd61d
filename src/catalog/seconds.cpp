#include "catalog/seconds.h"

namespace kvpool {

Status Seconds::open(uint32_t blocks_max, uint32_t segments) {
  stride_ = (segments + 63) / 64;
  oldest_.fill(no_block);
  newest_.fill(no_block);
  if (Status s = seconds_.map(blocks_max, false); !s) return s;
  return words_.map(uint64_t{blocks_max} * stride_, false);
}

void Seconds::prepare(BlockId block, DeviceId device) {
  KVPOOL_ASSERT(state(block) == SecondState::absent);
  for (uint32_t i = 0; i < stride_; ++i) words_[block.value * uint64_t{stride_} + i] = 0;
  seconds_[block.value].device = device;
}

void Seconds::add(BlockId block, uint32_t cell) {
  Second& second = seconds_[block.value];
  KVPOOL_ASSERT(second.state == SecondState::absent);
  second.cell = cell;
  second.state = SecondState::reserved;
  link(block);
  ++count_;
}

void Seconds::publish(BlockId block) {
  KVPOOL_ASSERT(state(block) == SecondState::reserved);
  seconds_[block.value].state = SecondState::published;
}

void Seconds::abandon(BlockId block) {
  KVPOOL_ASSERT(state(block) == SecondState::reserved);
  seconds_[block.value].state = SecondState::abandoned;
}

uint32_t Seconds::remove(BlockId block) {
  Second& second = seconds_[block.value];
  KVPOOL_ASSERT(second.state != SecondState::absent);
  unlink(block);
  --count_;
  second.state = SecondState::absent;
  return second.cell;
}

void Seconds::renew(BlockId block) {
  unlink(block);
  link(block);
}

void Seconds::link(BlockId block) {
  Second& second = seconds_[block.value];
  BlockId& newest = newest_[second.device.value];
  second.newer = none;
  second.older = newest.value;
  if (newest != no_block) {
    seconds_[newest.value].newer = block.value;
  } else {
    oldest_[second.device.value] = block;
  }
  newest = block;
}

void Seconds::unlink(BlockId block) {
  const Second& second = seconds_[block.value];
  if (second.newer != none) {
    seconds_[second.newer].older = second.older;
  } else {
    newest_[second.device.value] = BlockId(second.older);
  }
  if (second.older != none) {
    seconds_[second.older].newer = second.newer;
  } else {
    oldest_[second.device.value] = BlockId(second.newer);
  }
}

void Seconds::check(const Blocks& blocks) const {
  if (!opened()) return;
  uint32_t held = 0;
  for (uint32_t i = 0; i < blocks.fresh(); ++i) {
    if (seconds_[i].state == SecondState::absent) continue;
    ++held;
    KVPOOL_ASSERT(blocks[BlockId(i)].state != BlockState::free);
  }
  KVPOOL_ASSERT(held == count_);
  uint32_t listed = 0;
  for (size_t d = 0; d < devices_max; ++d) {
    uint32_t older = none;
    for (BlockId at = oldest_[d]; at != no_block; at = BlockId(seconds_[at.value].newer)) {
      const Second& second = seconds_[at.value];
      KVPOOL_ASSERT(second.state != SecondState::absent && second.device.value == d);
      KVPOOL_ASSERT(second.older == older && ++listed <= count_);
      older = at.value;
    }
    KVPOOL_ASSERT(newest_[d].value == older);
  }
  KVPOOL_ASSERT(listed == count_);
}

}  // namespace kvpool
