// MeterDevice: counts what passes through a device, in the same way for every system that a benchmark
// compares: bytes, the time with at least one request in flight, and the time that the owner thread spent in
// its calls, which for a device over io_uring is the time of its system calls.
//
// Thread: as any Device; counters() may be called from any thread while it runs.

#pragma once

#include <sys/types.h>

#include <atomic>
#include <memory>

#include "io/device.h"

namespace kvpool::bench {

struct MeterCounters {
  uint64_t read_bytes = 0;
  uint64_t written_bytes = 0;
  Nanos busy{0};   // up to the last change between idle and busy
  Nanos calls{0};  // inside submit() and poll() of the device below
};

class MeterDevice final : public Device {
 public:
  explicit MeterDevice(std::unique_ptr<Device> below);

  [[nodiscard]] const std::string& name() const override { return below_->name(); }
  [[nodiscard]] DeviceLimits limits() const override { return below_->limits(); }
  Status start(std::span<const std::span<std::byte>> regions) override;
  [[nodiscard]] bool submit(const IoRequest& request) override;
  [[nodiscard]] size_t poll(std::span<IoCompletion> out) override;
  [[nodiscard]] int wait_fd() const override { return below_->wait_fd(); }
  [[nodiscard]] Nanos next_event_time() const override { return below_->next_event_time(); }

  [[nodiscard]] MeterCounters counters() const;
  // The thread that started the device and drives it; 0 before that.
  [[nodiscard]] pid_t owner_thread() const { return owner_.load(std::memory_order_relaxed); }
  [[nodiscard]] Device& below() { return *below_; }

 private:
  std::unique_ptr<Device> below_;
  SteadyClock clock_;
  uint32_t in_flight_ = 0;
  Nanos busy_since_{0};
  // Counted at submission: a benchmark in which a request fails is void.
  std::atomic<uint64_t> read_bytes_{0};
  std::atomic<uint64_t> written_bytes_{0};
  std::atomic<int64_t> busy_ns_{0};
  std::atomic<int64_t> calls_ns_{0};
  std::atomic<pid_t> owner_{0};
};

}  // namespace kvpool::bench
