// CapDevice: another device, held to so many bytes a second; reads and writes have a cap of their own, and
// either may be absent. For noisy neighbours, and to make known unequal devices out of any.
//
// A token bucket that holds 10 ms of the rate and starts empty. A request passes when the bucket holds its
// length, or, if it is larger than the bucket, when that is full; the bucket may then be in debt. So in any
// time t at most rate x (t + 10 ms), and the length of one request, pass.
// It is the submission to the lower device that waits, not the completion: then the lower device itself is
// spared, and no buffer is filled long before anybody is told. A device that works in place completes at the
// next poll, so there both are the same. Requests of one kind keep their order.
//
// Thread: the owner thread. Failure: as the lower device. Nothing allocates after construction.

#pragma once

#include <memory>
#include <optional>

#include "base/clock.h"
#include "io/bounded_queue.h"
#include "io/device.h"

namespace kvpool {

// REQUIRES of all: time never goes back.
class TokenBucket {
 public:
  // Without a rate everything passes. REQUIRES: a rate is not zero.
  TokenBucket(std::optional<uint64_t> bytes_per_second, Nanos now);

  // Takes the tokens if they are there.
  [[nodiscard]] bool take(uint64_t bytes, Nanos now);
  // When take() will succeed if nothing else takes; not before `now`.
  [[nodiscard]] Nanos ready_at(uint64_t bytes, Nanos now) const;

 private:
  // Bytes x 10^9: then a nanosecond adds exactly the rate.
  using Tokens = __int128;
  [[nodiscard]] Tokens level_at(Nanos now) const;
  [[nodiscard]] Tokens needed(uint64_t bytes) const;

  Tokens rate_ = 0;  // 0: no cap
  Tokens full_ = 0;
  Tokens level_ = 0;
  Nanos filled_at_;
};

struct CapOptions {
  std::optional<uint64_t> read_bytes_per_second;
  std::optional<uint64_t> write_bytes_per_second;
};

class CapDevice final : public Device {
 public:
  // REQUIRES: clock outlives the device.
  CapDevice(std::unique_ptr<Device> lower, const CapOptions& options, const Clock& clock);

  [[nodiscard]] const std::string& name() const override { return lower_->name(); }
  [[nodiscard]] DeviceLimits limits() const override { return limits_; }
  void offer(std::span<std::byte> memory) override { lower_->offer(memory); }
  Status start(std::span<const std::span<std::byte>> regions) override { return lower_->start(regions); }
  [[nodiscard]] bool submit(const IoRequest& request) override;
  [[nodiscard]] bool discard(ByteOffset offset, uint64_t length_bytes) override {
    return lower_->discard(offset, length_bytes);
  }
  [[nodiscard]] size_t poll(std::span<IoCompletion> out) override;
  [[nodiscard]] bool online() const override { return lower_->online(); }
  [[nodiscard]] bool reaches(const std::byte* buffer, uint32_t length_bytes) const override {
    return lower_->reaches(buffer, length_bytes);
  }
  [[nodiscard]] int wait_fd() const override { return lower_->wait_fd(); }
  [[nodiscard]] Nanos next_event_time() const override;

 private:
  struct Lane {
    TokenBucket bucket;
    BoundedQueue<IoRequest> held;
    bool refused = false;  // the first of `held`, by the lower device: that says when to try again
  };

  [[nodiscard]] bool pass(Lane& lane, const IoRequest& request, Nanos now);
  void release(Lane& lane, Nanos now);
  [[nodiscard]] Lane& lane_of(IoKind kind) { return kind == IoKind::read ? reads_ : writes_; }

  std::unique_ptr<Device> lower_;
  const Clock& clock_;
  DeviceLimits limits_;
  Lane reads_;
  Lane writes_;
  uint32_t under_way_ = 0;  // held here or in the lower device; never more than that one takes
};

}  // namespace kvpool
