#include "io/memory/memory_device.h"

#include <algorithm>
#include <utility>

#include "base/assert.h"

namespace kvpool {
namespace {

// A page: a segment then has the same padded length here and in a file, so that it may spill either way.
constexpr uint32_t alignment_bytes = 4096;
constexpr uint64_t transfer_bytes_max = 1ULL << 30;

}  // namespace

MemoryDevice::MemoryDevice(std::string name, std::span<std::byte> memory, uint32_t queue_depth)
    : name_(std::move(name)), memory_(memory), done_(queue_depth) {
  KVPOOL_ASSERT(reinterpret_cast<uintptr_t>(memory.data()) % alignment_bytes == 0);
  limits_.size_bytes = memory.size() / alignment_bytes * alignment_bytes;
  limits_.alignment_bytes = alignment_bytes;
  limits_.transfer_bytes_max = static_cast<uint32_t>(std::min(transfer_bytes_max, limits_.size_bytes));
  limits_.queue_depth_max = queue_depth;
  limits_.in_place = true;
}

bool MemoryDevice::submit(const IoRequest& request) {
  // A range outside the memory would let a copy overwrite something else.
  KVPOOL_ASSERT(request.length_bytes <= limits_.size_bytes &&
                request.offset.value <= limits_.size_bytes - request.length_bytes);
  IoCompletion completion;
  completion.tag = request.tag;
  completion.in_place = memory_.data() + request.offset.value;
  completion.bytes = request.length_bytes;
  return done_.push(completion);
}

size_t MemoryDevice::poll(std::span<IoCompletion> out) {
  const size_t count = std::min(out.size(), done_.size());
  for (size_t i = 0; i < count; ++i) out[i] = done_.pop();
  return count;
}

}  // namespace kvpool
