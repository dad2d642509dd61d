// SimDevice: a device that exists in virtual time. Requests pass one after the other through a pipe of the
// device's bandwidth, then wait its latency (several at once), give or take a seeded jitter. Faults are
// stacked on it (io/fault_device.h).
//
// With `keeps_bytes` it stores what is written, at the moment of completion and not before, so that an engine
// that reuses a buffer too early is caught. In place it behaves as a memory device: completions carry
// addresses. With `discards` it takes discards, and fills what it drops with garbage.
// Thread: the engine's.

#pragma once

#include <span>
#include <vector>

#include "base/prng.h"
#include "io/device.h"
#include "io/discards.h"

namespace kvpool {

struct SimDeviceOptions {
  std::string name = "sim";
  uint64_t size_bytes = 1 << 20;
  double read_bytes_per_second = 1e9;
  double write_bytes_per_second = 1e9;
  Nanos latency{std::chrono::microseconds(100)};
  double jitter = 0;  // each request's latency is stretched by up to this fraction
  uint32_t alignment_bytes = 4096;
  uint32_t transfer_bytes_max = 1 << 20;
  uint32_t queue_depth_max = 64;
  bool in_place = false;
  bool storage = true;
  bool keeps_bytes = true;
  bool discards = false;
  Nanos discard_latency{std::chrono::microseconds(300)};  // of a command
  uint64_t seed = 1;
};

class SimDevice final : public Device {
 public:
  SimDevice(const Clock& clock, SimDeviceOptions options);

  [[nodiscard]] const std::string& name() const override { return options_.name; }
  [[nodiscard]] DeviceLimits limits() const override;
  [[nodiscard]] bool submit(const IoRequest& request) override;
  [[nodiscard]] bool discard(ByteOffset offset, uint64_t length_bytes) override;
  [[nodiscard]] size_t poll(std::span<IoCompletion> out) override;
  [[nodiscard]] Nanos next_event_time() const override;

  // The stored bytes, for tests that check or corrupt them.
  [[nodiscard]] std::span<std::byte> bytes() { return bytes_; }
  static constexpr std::byte garbage{0xdb};

 private:
  struct Flying {
    IoRequest request;
    Nanos due{0};
  };
  void complete(const IoRequest& request, IoCompletion& out);
  void drop_discarded();

  const Clock& clock_;
  SimDeviceOptions options_;
  Prng prng_;
  std::vector<std::byte> memory_;
  std::span<std::byte> bytes_;  // of memory_
  std::vector<Flying> flying_;  // a heap, the earliest due first
  Nanos pipe_free_at_{0};
  Discards discards_{DiscardLimits{}};
  Nanos discarded_at_ = never;  // when the command under way ends
};

}  // namespace kvpool
