// NullDevice: completes everything at the next poll and moves nothing; what a read returns is whatever its
// buffer held. For measuring the engine alone.
//
// Thread: the owner thread. Failure: submit() refuses when queue_depth requests wait for poll(). Nothing
// allocates after construction.

#pragma once

#include <string>

#include "io/bounded_queue.h"
#include "io/device.h"

namespace kvpool {

class NullDevice final : public Device {
 public:
  // REQUIRES: queue_depth > 0.
  NullDevice(std::string name, uint64_t size_bytes, uint32_t queue_depth = 1024);

  [[nodiscard]] const std::string& name() const override { return name_; }
  [[nodiscard]] DeviceLimits limits() const override { return limits_; }
  [[nodiscard]] bool submit(const IoRequest& request) override {
    return done_.push({request.tag, request.length_bytes});
  }
  [[nodiscard]] size_t poll(std::span<IoCompletion> out) override;
  [[nodiscard]] Nanos next_event_time() const override { return done_.empty() ? never : Nanos{0}; }

 private:
  struct Done {
    uint64_t tag = 0;
    uint32_t bytes = 0;
  };

  std::string name_;
  DeviceLimits limits_;
  BoundedQueue<Done> done_;
};

}  // namespace kvpool
