// BlockMover: moves blocks between slots of consumer memory and devices, many at a time, each in parts. The
// engine of the tiered baselines. In-place devices' parts are copied by the Transfer.
//
//   begin() takes a free slot; advance() issues, polls, and sleeps when nothing moved; finished() hands out
//   slots whose block is wholly moved; release() makes them free again.
//
// Thread: one, which becomes the devices' owner. Failure: advance() reports a failed or short part; the mover
// is then only good for drain(), after which no device holds a slot's memory.

#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/clock.h"
#include "io/device.h"
#include "xfer/transfer.h"

namespace kvpool::bench {

// A range of a block, relative to its start both on the device and in the slot.
struct BlockPart {
  uint64_t offset = 0;
  uint32_t bytes = 0;
};

class BlockMover {
 public:
  // Cuts `memory` into slots of slot_bytes. REQUIRES: at least one fits; all of it outlives the mover.
  BlockMover(std::vector<Device*> devices, Transfer& transfer, std::span<std::byte> memory,
             uint64_t slot_bytes);

  [[nodiscard]] uint32_t slots() const { return static_cast<uint32_t>(slots_.size()); }
  [[nodiscard]] std::span<std::byte> memory(uint32_t slot) const { return slots_[slot].memory; }
  // A free slot, now the caller's; none if all are taken.
  [[nodiscard]] std::optional<uint32_t> take();
  // Moves `parts` between a taken slot and device `device` at `offset`. `parts` must outlive the move.
  void begin(uint32_t slot, IoKind kind, uint32_t device, ByteOffset offset,
             std::span<const BlockPart> parts);
  // REQUIRES: something was begun and not yet handed out by finished(), or it returns at once.
  [[nodiscard]] Status advance();
  // A slot whose parts have all moved, still taken.
  [[nodiscard]] std::optional<uint32_t> finished();
  void release(uint32_t slot);
  // Waits until no device or copy uses any slot.
  void drain();

 private:
  struct Slot {
    std::span<std::byte> memory;
    std::span<const BlockPart> parts;
    ByteOffset offset;
    uint32_t device = 0;
    IoKind kind = IoKind::read;
    size_t issued = 0;  // parts handed to the device
    size_t moved = 0;
  };

  bool issue();
  bool issue_slot(uint32_t index);
  bool poll_devices();
  void device_done(const IoCompletion& completion);
  bool copy_pending();
  bool poll_transfer();
  void part_done(uint64_t tag);
  void sleep();
  [[nodiscard]] Nanos next_event_time() const;

  std::vector<Device*> devices_;
  Transfer& transfer_;
  SteadyClock clock_;
  std::vector<Slot> slots_;
  std::deque<uint32_t> free_;        // used in turn, so that no slot is warm in a cache when it comes again
  std::vector<uint32_t> issuing_;    // slots with parts not yet issued, oldest first
  std::vector<uint32_t> finished_;   // oldest first
  std::vector<TransferJob> copies_;  // that the Transfer had no room for
  uint32_t outstanding_ = 0;         // parts at devices or in copies
  Errc failure_ = Errc::ok;
  uint32_t failed_device_ = 0;
};

}  // namespace kvpool::bench
