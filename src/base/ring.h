// SpscRing: a bounded queue for one producer thread and one consumer thread, over memory that the caller
// owns (ordinary, or shared between processes: it holds no pointers). A failed push is back-pressure.
// Messages are trivially copyable; indices run freely and wrap.

#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace kvpool {

template <class T, uint32_t capacity_>
class SpscRing {
  static_assert(std::is_trivially_copyable_v<T>);
  static_assert((capacity_ & (capacity_ - 1)) == 0, "capacity is a power of two");

 public:
  static constexpr uint32_t capacity = capacity_;

  // Producer only. False when full.
  [[nodiscard]] bool push(const T& message) {
    const uint32_t tail = tail_.load(std::memory_order_relaxed);
    if (tail - head_seen_ == capacity) {
      head_seen_ = head_.load(std::memory_order_acquire);
      if (tail - head_seen_ == capacity) return false;
    }
    slots_[tail & (capacity - 1)] = message;
    tail_.store(tail + 1, std::memory_order_release);
    return true;
  }

  // Producer only: how many pushes will succeed at least.
  [[nodiscard]] uint32_t room() {
    head_seen_ = head_.load(std::memory_order_acquire);
    return capacity - (tail_.load(std::memory_order_relaxed) - head_seen_);
  }

  // Consumer only. False when empty.
  [[nodiscard]] bool pop(T& message) {
    const uint32_t head = head_.load(std::memory_order_relaxed);
    if (head == tail_seen_) {
      tail_seen_ = tail_.load(std::memory_order_acquire);
      if (head == tail_seen_) return false;
    }
    message = slots_[head & (capacity - 1)];
    head_.store(head + 1, std::memory_order_release);
    return true;
  }

  // Consumer only: whether a pop would find nothing.
  [[nodiscard]] bool empty() const {
    return head_.load(std::memory_order_relaxed) == tail_.load(std::memory_order_acquire);
  }

 private:
  alignas(64) std::atomic<uint32_t> tail_{0};
  uint32_t head_seen_ = 0;  // the producer's last look at head_
  alignas(64) std::atomic<uint32_t> head_{0};
  uint32_t tail_seen_ = 0;  // the consumer's last look at tail_
  alignas(64) std::array<T, capacity> slots_{};
};

}  // namespace kvpool
