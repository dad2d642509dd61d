#include "io/null/null_device.h"

#include <algorithm>
#include <utility>

namespace kvpool {
namespace {

constexpr uint64_t alignment_bytes = 4096;
constexpr uint64_t transfer_bytes_max = 1ULL << 30;

}  // namespace

NullDevice::NullDevice(std::string name, uint64_t size_bytes, uint32_t queue_depth)
    : name_(std::move(name)), done_(queue_depth) {
  limits_.size_bytes = size_bytes / alignment_bytes * alignment_bytes;
  limits_.alignment_bytes = alignment_bytes;
  limits_.transfer_bytes_max = static_cast<uint32_t>(std::min(transfer_bytes_max, limits_.size_bytes));
  limits_.queue_depth_max = queue_depth;
  limits_.keeps_bytes = false;
}

size_t NullDevice::poll(std::span<IoCompletion> out) {
  const size_t count = std::min(out.size(), done_.size());
  for (size_t i = 0; i < count; ++i) {
    const Done done = done_.pop();
    out[i] = IoCompletion{};
    out[i].tag = done.tag;
    out[i].bytes = done.bytes;
  }
  return count;
}

}  // namespace kvpool
