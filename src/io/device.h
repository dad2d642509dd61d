// The Device seam: byte ranges in and out of one memory module, file or drive.
//
// Thread: everything but the constructor's work is called by the engine's one owner thread. Nothing blocks.
// Failure: submit() refuses only for want of room (back-pressure, not an error); all else that can go wrong
// arrives in a completion. Every accepted request completes exactly once, however late.
// Devices stack: a cap, a delay or a fault is a Device over another Device.
//
// In place: a memory device moves nothing. Its completion carries the address at which the range lies, for
// reads and for writes, and the engine's Transfer does the copy. Whatever is stacked on it holds the
// completion back.

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/clock.h"
#include "base/ids.h"
#include "base/result.h"

namespace kvpool {

struct DeviceLimits {
  uint64_t size_bytes = 0;          // of the data area; offsets run from 0
  uint32_t alignment_bytes = 1;     // of offsets, lengths and buffer addresses
  uint32_t transfer_bytes_max = 0;  // largest length of one request
  uint32_t queue_depth_max = 0;     // requests in flight
  bool in_place = false;            // completions carry addresses; requests need no buffer
  bool storage = false;             // survives the process
  bool discards = false;            // takes discard()
  bool keeps_bytes = true;          // false: what is read is not what was written, so it cannot be verified
};

enum class IoKind : uint8_t { read, write };

struct IoRequest {
  IoKind kind = IoKind::read;
  ByteOffset offset;            // a multiple of alignment_bytes
  uint32_t length_bytes = 0;    // a multiple of alignment_bytes, at most transfer_bytes_max
  std::byte* buffer = nullptr;  // aligned; written by a read, read by a write; unused in place.
                                // The device holds it from submit() until the completion.
  uint64_t tag = 0;             // returned in the completion
};

struct IoCompletion {
  uint64_t tag = 0;
  std::byte* in_place = nullptr;  // where the range lies, for in-place devices; valid until it is reused
  uint32_t bytes = 0;             // moved; fewer than asked is a short request and never a success
  Errc code = Errc::ok;
};

class Device {
 public:
  Device() = default;
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  virtual ~Device() = default;

  [[nodiscard]] virtual const std::string& name() const = 0;
  [[nodiscard]] virtual DeviceLimits limits() const = 0;

  // Before start(), on any thread: memory of a consumer's own, in which buffers will lie too. A device that
  // registers memory may do so with it or not; it leaves alone what the memory holds.
  virtual void offer(std::span<std::byte> /*memory*/) {}

  // Called once on the owner thread before the first submit(); regions are the memory in which most buffers
  // will lie, for devices that register memory. May allocate and take milliseconds.
  virtual Status start(std::span<const std::span<std::byte>> /*regions*/) { return {}; }

  // Takes the request, or returns false when the device is full, or busy with the discard of what is to be
  // written: poll, then try again.
  [[nodiscard]] virtual bool submit(const IoRequest& request) = 0;

  // Advice: nobody will read what lies there any more. The device drops it when it likes, but not what a
  // later submit() writes there. False: not now; the advice may be given again later. REQUIRES:
  // limits().discards; offset and length are multiples of alignment_bytes; no request that touches the range
  // is under way.
  [[nodiscard]] virtual bool discard(ByteOffset /*offset*/, uint64_t /*length_bytes*/) { return false; }

  // Sends what submit() and discard() have gathered, as one batch, and fills `out` with completions; returns
  // how many.
  [[nodiscard]] virtual size_t poll(std::span<IoCompletion> out) = 0;

  // False while it is away (a drive or a target that is gone for the moment) and all requests fail: nothing
  // new is placed on it then. What lies on it may still be there when it comes back. May change in poll().
  [[nodiscard]] virtual bool online() const { return true; }
  // Whether data can go straight to and from that memory; elsewhere the engine uses staging.
  [[nodiscard]] virtual bool reaches(const std::byte* /*buffer*/, uint32_t /*length_bytes*/) const {
    return true;
  }

  // Readable when poll() may find a completion; -1 if next_event_time() alone says when.
  [[nodiscard]] virtual int wait_fd() const { return -1; }
  // The earliest time at which poll() may find something that wait_fd() does not announce.
  [[nodiscard]] virtual Nanos next_event_time() const { return never; }
};

}  // namespace kvpool
