// The Transfer seam: copies between pool memory and the consumer's, and checksums, off the owner thread.
//
// Thread: called by the engine's owner thread; the work happens elsewhere (worker threads, a GPU, virtual
// time). Failure: submit() refuses only for want of room; every accepted job completes exactly once.

#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/clock.h"
#include "base/result.h"

namespace kvpool {

struct TransferJob {
  const std::byte* source = nullptr;
  std::byte* destination = nullptr;  // null: nothing is copied, the source is only summed
  uint32_t length_bytes = 0;         // logical bytes
  uint32_t pad_bytes = 0;            // zeros written behind the copy, up to the device's alignment
  bool sum = false;                  // compute the checksum of the source's logical bytes
  uint64_t seed = 0;                 // of that checksum
  uint64_t tag = 0;                  // returned in the completion
};

struct TransferCompletion {
  uint64_t tag = 0;
  uint64_t checksum = 0;  // of what arrived, when asked for
  Errc code = Errc::ok;
};

class Transfer {
 public:
  Transfer() = default;
  Transfer(const Transfer&) = delete;
  Transfer& operator=(const Transfer&) = delete;
  virtual ~Transfer() = default;

  [[nodiscard]] virtual bool submit(const TransferJob& job) = 0;
  [[nodiscard]] virtual size_t poll(std::span<TransferCompletion> out) = 0;

  // Readable when poll() may find a completion, between prepare_wait() and done_wait(); -1 if
  // next_event_time() alone says when.
  [[nodiscard]] virtual int wait_fd() const { return -1; }
  virtual void prepare_wait() {}
  virtual void done_wait() {}
  [[nodiscard]] virtual Nanos next_event_time() const { return never; }
};

}  // namespace kvpool
