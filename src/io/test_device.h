// TestDevice: a vector of bytes as a Device, for the unit tests of devices that stack. Completes at the next
// poll, in place or by copying. One thread.

#pragma once

#include <algorithm>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "base/range_set.h"
#include "io/bounded_queue.h"
#include "io/device.h"

namespace kvpool {

class TestDevice final : public Device {
 public:
  explicit TestDevice(bool in_place, uint32_t queue_depth = 16, size_t size = 1 << 20)
      : bytes_(size, std::byte{0x11}), waiting_(queue_depth) {
    limits_.size_bytes = size;
    limits_.transfer_bytes_max = static_cast<uint32_t>(size);
    limits_.queue_depth_max = queue_depth;
    limits_.in_place = in_place;
  }

  [[nodiscard]] std::vector<std::byte>& bytes() { return bytes_; }
  [[nodiscard]] size_t submitted() const { return submitted_; }

  [[nodiscard]] const std::string& name() const override { return name_; }
  [[nodiscard]] DeviceLimits limits() const override { return limits_; }
  void offer(std::span<std::byte> memory) override { offered_bytes += memory.size(); }
  // The next poll() refuses writes no more, as when a discard has ended.
  void refuse_writes() { refuses_writes_ = true; }
  [[nodiscard]] bool submit(const IoRequest& request) override {
    if (refuses_writes_ && request.kind == IoKind::write) return false;
    if (!waiting_.push(request)) return false;
    ++submitted_;
    return true;
  }
  [[nodiscard]] bool discard(ByteOffset offset, uint64_t length_bytes) override {
    discarded.push_back({offset.value, length_bytes});
    return true;
  }
  [[nodiscard]] size_t poll(std::span<IoCompletion> out) override {
    size_t count = 0;
    refuses_writes_ = false;
    for (; count < out.size() && !waiting_.empty(); ++count) out[count] = carry_out(waiting_.pop());
    return count;
  }
  [[nodiscard]] Nanos next_event_time() const override { return waiting_.empty() ? never : Nanos{0}; }

  std::vector<ByteRange> discarded;
  size_t offered_bytes = 0;

 private:
  IoCompletion carry_out(const IoRequest& request) {
    std::byte* const at = bytes_.data() + request.offset.value;
    IoCompletion completion;
    completion.tag = request.tag;
    completion.bytes = request.length_bytes;
    if (limits_.in_place) {
      completion.in_place = at;
    } else if (request.buffer != nullptr) {
      const bool is_read = request.kind == IoKind::read;
      std::memcpy(is_read ? request.buffer : at, is_read ? at : request.buffer, request.length_bytes);
    }
    return completion;
  }

  std::string name_ = "test0";
  DeviceLimits limits_;
  std::vector<std::byte> bytes_;
  BoundedQueue<IoRequest> waiting_;
  size_t submitted_ = 0;
  bool refuses_writes_ = false;
};

inline IoRequest request_of(IoKind kind, uint32_t length, uint64_t tag, std::byte* buffer = nullptr) {
  IoRequest request;
  request.kind = kind;
  request.length_bytes = length;
  request.tag = tag;
  request.buffer = buffer;
  return request;
}

}  // namespace kvpool
