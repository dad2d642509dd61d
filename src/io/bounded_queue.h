// BoundedQueue: a first-in first-out queue of fixed capacity for one thread. All memory is taken in the
// constructor. A failed push is back-pressure.

#pragma once

#include <cstddef>
#include <vector>

#include "base/assert.h"

namespace kvpool {

template <class T>
class BoundedQueue {
 public:
  explicit BoundedQueue(size_t capacity) : slots_(capacity) { KVPOOL_ASSERT(capacity > 0); }

  [[nodiscard]] bool empty() const { return size_ == 0; }
  [[nodiscard]] bool full() const { return size_ == slots_.size(); }
  [[nodiscard]] size_t size() const { return size_; }
  [[nodiscard]] size_t capacity() const { return slots_.size(); }

  // False when full.
  [[nodiscard]] bool push(const T& item) {
    if (full()) return false;
    slots_[wrap(head_ + size_)] = item;
    ++size_;
    return true;
  }
  // REQUIRES: not empty.
  [[nodiscard]] const T& front() const { return slots_[head_]; }
  [[nodiscard]] T& front() { return slots_[head_]; }
  // REQUIRES: not empty.
  T pop() {
    const T item = slots_[head_];
    head_ = wrap(head_ + 1);
    --size_;
    return item;
  }

 private:
  [[nodiscard]] size_t wrap(size_t index) const {
    return index >= slots_.size() ? index - slots_.size() : index;
  }

  std::vector<T> slots_;
  size_t head_ = 0;
  size_t size_ = 0;
};

}  // namespace kvpool
