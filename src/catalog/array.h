// HugeArray: a zero-filled array of plain structs in memory of its own, in huge pages where the system gives
// them: random access over 4 KiB pages is bound by TLB misses.
//
// Thread: its owner's. Failure: map() says when the system refuses. Memory that was never touched is not
// taken, unless map() is told to.

#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "base/result.h"

namespace kvpool {

// Anonymous zeroed memory; `touch` takes it now, instead of on first use.
[[nodiscard]] Result<void*> map_zeroed(size_t bytes, bool touch);
void unmap(void* memory, size_t bytes);

template <class T>
class HugeArray {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  HugeArray() = default;
  HugeArray(const HugeArray&) = delete;
  HugeArray& operator=(const HugeArray&) = delete;
  HugeArray(HugeArray&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  HugeArray& operator=(HugeArray&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~HugeArray() {
    if (data_ != nullptr) unmap(data_, size_ * sizeof(T));
  }

  [[nodiscard]] Status map(size_t count, bool touch) {
    Result<void*> memory = map_zeroed(count * sizeof(T), touch);
    if (!memory) return tl::unexpected(memory.error());
    if (data_ != nullptr) unmap(data_, size_ * sizeof(T));
    data_ = static_cast<T*>(*memory);
    size_ = count;
    return {};
  }

  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }
  [[nodiscard]] T* data() { return data_; }
  [[nodiscard]] const T* data() const { return data_; }
  [[nodiscard]] size_t size() const { return size_; }

 private:
  T* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace kvpool
