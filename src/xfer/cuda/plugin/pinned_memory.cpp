#include "xfer/cuda/plugin/pinned_memory.h"

#include <mutex>
#include <string>
#include <utility>

#include "xfer/cuda/plugin/cuda_handles.h"

namespace kvpool {
namespace {

// Whether both ends of that memory are pinned host memory.
bool is_pinned(std::span<std::byte> memory) {
  for (std::byte* const place : {memory.data(), memory.data() + memory.size() - 1}) {
    cudaPointerAttributes attributes{};
    const cudaError_t error = cudaPointerGetAttributes(&attributes, place);
    if (error != cudaSuccess || attributes.type != cudaMemoryTypeHost || attributes.devicePointer != place) {
      (void)cudaGetLastError();
      return false;
    }
  }
  return true;
}

}  // namespace

// Registered memory, until its last share goes.
class PinnedMemory::Range {
 public:
  Range(std::span<std::byte> memory, int device) : memory_(memory), device_(device) {}
  Range(const Range&) = delete;
  Range& operator=(const Range&) = delete;
  ~Range() {
    const DeviceGuard guard(device_);
    (void)cudaHostUnregister(memory_.data());
    (void)cudaGetLastError();
  }
  [[nodiscard]] bool overlaps(std::span<std::byte> other) const {
    return memory_.data() < other.data() + other.size() && other.data() < memory_.data() + memory_.size();
  }

 private:
  std::span<std::byte> memory_;
  int device_;  // by which it was registered
};

// The lock is held from before a range is looked for until it has a share, and while one is unregistered.
struct PinnedMemory::Ranges {
  std::mutex mutex;
  std::vector<std::weak_ptr<Range>> ranges;
};

PinnedMemory::Ranges& PinnedMemory::all() {
  static auto* const ranges = new Ranges;  // the process's, as CUDA's context is
  return *ranges;
}

Result<PinnedMemory> PinnedMemory::pin(std::span<std::byte> memory, int device) {
  PinnedMemory made;  // may go after the lock
  Ranges& known = all();
  const std::lock_guard lock(known.mutex);
  std::erase_if(known.ranges, [](const std::weak_ptr<Range>& range) { return range.expired(); });
  if (is_pinned(memory)) {
    for (const std::weak_ptr<Range>& one : known.ranges) {
      std::shared_ptr<Range> range = one.lock();
      if (range->overlaps(memory)) made.ranges_.push_back(std::move(range));
    }
    return made;
  }
  const cudaError_t error =
      cudaHostRegister(memory.data(), memory.size(), cudaHostRegisterPortable | cudaHostRegisterMapped);
  if (error != cudaSuccess) {
    return fail_cuda(error, "cudaHostRegister of " + std::to_string(memory.size()) + " bytes");
  }
  made.ranges_.push_back(std::make_shared<Range>(memory, device));
  known.ranges.push_back(made.ranges_.back());
  if (!is_pinned(memory)) return fail(Errc::system, "memory was registered, but is not pinned for this GPU");
  return made;
}

PinnedMemory::~PinnedMemory() {
  if (ranges_.empty()) return;
  const std::lock_guard lock(all().mutex);
  ranges_.clear();
}

}  // namespace kvpool
