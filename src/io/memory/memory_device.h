// MemoryDevice: one contiguous range of host memory (a part of the Arena) as a Device. In place: it moves
// nothing, a completion carries the address, and whoever wants the bytes copies them.
//
// Thread: the engine's owner thread. Failure: submit() refuses when queue_depth requests wait for poll();
// nothing else can go wrong. Nothing allocates after construction.

#pragma once

#include <span>
#include <string>

#include "io/bounded_queue.h"
#include "io/device.h"

namespace kvpool {

class MemoryDevice final : public Device {
 public:
  // REQUIRES: memory outlives the device and starts on a multiple of 4096; queue_depth > 0.
  MemoryDevice(std::string name, std::span<std::byte> memory, uint32_t queue_depth = 1024);

  [[nodiscard]] const std::string& name() const override { return name_; }
  [[nodiscard]] DeviceLimits limits() const override { return limits_; }
  [[nodiscard]] bool submit(const IoRequest& request) override;
  [[nodiscard]] size_t poll(std::span<IoCompletion> out) override;
  [[nodiscard]] Nanos next_event_time() const override { return done_.empty() ? never : Nanos{0}; }

 private:
  std::string name_;
  std::span<std::byte> memory_;
  DeviceLimits limits_;
  BoundedQueue<IoCompletion> done_;
};

}  // namespace kvpool
