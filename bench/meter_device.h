// MeterDevice: counts what passes through a device, in the same way for every system that a benchmark
// compares: bytes, for how long requests were under way, and the time in which it was busy, with a record of
// when.
//
// A device is busy while it has at least one request in flight; a memory device also while at least one copy
// into or out of its memory is under way, of which a MeterTransfer tells it.
//
// Thread: as any Device; counters() may be called from any thread while it runs, the record be read and begun
// from another only while nothing is under way.

#pragma once

#include <sys/types.h>

#include <atomic>
#include <memory>

#include "bench/in_flight.h"
#include "bench/timeline.h"
#include "io/device.h"

namespace kvpool::bench {

struct MeterCounters {
  uint64_t read_bytes = 0;
  uint64_t written_bytes = 0;
  Nanos busy{0};       // up to the last change between idle and busy
  Nanos under_way{0};  // of all requests, each from its submission to its completion
};

class MeterDevice final : public Device {
 public:
  // storage: of all devices of a system that its owner thread drives itself, this one among them; null for
  // others. REQUIRES: it outlives the device.
  explicit MeterDevice(std::unique_ptr<Device> below, InFlight* storage = nullptr);

  [[nodiscard]] const std::string& name() const override { return below_->name(); }
  [[nodiscard]] DeviceLimits limits() const override { return below_->limits(); }
  void offer(std::span<std::byte> memory) override { below_->offer(memory); }
  Status start(std::span<const std::span<std::byte>> regions) override;
  [[nodiscard]] bool submit(const IoRequest& request) override;
  [[nodiscard]] bool discard(ByteOffset offset, uint64_t length_bytes) override {
    return below_->discard(offset, length_bytes);
  }
  [[nodiscard]] size_t poll(std::span<IoCompletion> out) override;
  [[nodiscard]] bool online() const override { return below_->online(); }
  [[nodiscard]] bool reaches(const std::byte* buffer, uint32_t length_bytes) const override {
    return below_->reaches(buffer, length_bytes);
  }
  [[nodiscard]] int wait_fd() const override { return below_->wait_fd(); }
  [[nodiscard]] Nanos next_event_time() const override { return below_->next_event_time(); }

  // For a MeterTransfer, on the owner thread: whether this address lies between those that the device has
  // handed out, and copies into or out of its memory.
  [[nodiscard]] bool has_handed_out(const std::byte* at) const { return at >= memory_ && at < memory_end_; }
  void copy_begins(Nanos now) { begin(now); }
  void copy_ends(Nanos now) { end(now, 1); }

  [[nodiscard]] MeterCounters counters() const;
  // Begins the record anew. REQUIRES: nothing is under way, and the owner thread learns of the next request
  // from the caller, so that it sees the change.
  void start_record(Nanos at) { record_.start(at); }
  // REQUIRES: nothing is under way, and the caller learned of the last completion from the owner thread.
  [[nodiscard]] const Timeline& record() const { return record_; }
  // The thread that started the device and drives it; 0 before that.
  [[nodiscard]] pid_t owner_thread() const { return owner_.load(std::memory_order_relaxed); }
  [[nodiscard]] bool is_driven_storage() const { return storage_ != nullptr; }
  [[nodiscard]] Device& below() { return *below_; }

 private:
  void begin(Nanos now);
  void end(Nanos now, size_t count);

  std::unique_ptr<Device> below_;
  InFlight* storage_;
  SteadyClock clock_;
  InFlight in_flight_;  // requests and copies
  Timeline record_;
  const std::byte* memory_ = nullptr;  // the lowest address handed out, and the end of the highest
  const std::byte* memory_end_ = nullptr;
  // Counted at submission: a benchmark in which a request fails is void.
  std::atomic<uint64_t> read_bytes_{0};
  std::atomic<uint64_t> written_bytes_{0};
  std::atomic<pid_t> owner_{0};
};

}  // namespace kvpool::bench
