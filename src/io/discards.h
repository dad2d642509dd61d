// Discards: what a device was advised to drop, from discard() until the device has done so. Ranges wait,
// neighbours merged, until the device sends one command for many of them; one command is under way at a time.
//
// The rule that keeps what is written: a write takes its range out of those that wait, and is refused while
// it overlaps the command under way, since a device carries out commands in any order. So that no write waits
// long, a command covers a bounded number of bytes. Thread: the owner thread.

#pragma once

#include <span>

#include "base/ids.h"
#include "base/range_set.h"

namespace kvpool {

struct DiscardLimits {
  uint64_t ranges_max = 256;              // of one command
  uint64_t range_bytes_max = 1ULL << 30;  // of one range
  uint64_t command_bytes_max = 1ULL << 30;
};

class Discards {
 public:
  // REQUIRES: all limits are above 0.
  explicit Discards(const DiscardLimits& limits);

  // False: full.
  [[nodiscard]] bool add(ByteOffset offset, uint64_t length_bytes);
  // Whether the range may be written now; it will not be dropped any more then.
  [[nodiscard]] bool admit_write(ByteOffset offset, uint64_t length_bytes);

  [[nodiscard]] bool can_send() const { return under_way_.empty() && !waiting_.empty(); }
  // The ranges of the next command, which is under way from here on. REQUIRES: can_send().
  std::span<const ByteRange> send();
  [[nodiscard]] bool is_under_way() const { return !under_way_.empty(); }
  [[nodiscard]] std::span<const ByteRange> under_way() const { return under_way_; }
  // The command has ended. REQUIRES: one is under way.
  void finish();

 private:
  DiscardLimits limits_;
  RangeSet waiting_;
  std::vector<ByteRange> under_way_;
};

}  // namespace kvpool
