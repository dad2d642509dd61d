// Wakeup: lets one thread sleep until another has something for it, without a system call while it is awake.
//
//   sleeper:  wakeup.prepare(); if (nothing to do) { poll(wakeup.fd()) } wakeup.done();
//   waker:    make the work visible; wakeup.notify();
//
// notify() writes to the eventfd only between prepare() and done(), so a busy sleeper costs its wakers one
// load. Any number of wakers, one sleeper.

#pragma once

#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <system_error>

namespace kvpool {

// Throws where the process has no descriptor left.
inline int make_eventfd() {
  const int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (fd < 0) throw std::system_error(errno, std::generic_category(), "eventfd (see ulimit -n)");
  return fd;
}

class Wakeup {
 public:
  Wakeup() : fd_(make_eventfd()) {}
  Wakeup(const Wakeup&) = delete;
  Wakeup& operator=(const Wakeup&) = delete;
  ~Wakeup() { close(fd_); }

  [[nodiscard]] int fd() const { return fd_; }

  // Sleeper: from here on notify() makes fd() readable. Look for work once more after this, then sleep.
  void prepare() { asleep_.exchange(true, std::memory_order_seq_cst); }
  // Sleeper: awake again; empties the eventfd.
  void done() {
    // Still asleep: nobody has written anything.
    if (asleep_.exchange(false, std::memory_order_acq_rel)) return;
    uint64_t ignored = 0;
    [[maybe_unused]] const auto n = read(fd_, &ignored, sizeof ignored);
  }
  // Waker, after making its work visible. The exchanges on both sides are full barriers: either the sleeper
  // sees the work, or the waker sees that it sleeps.
  void notify() {
    fence();
    if (asleep_.load(std::memory_order_relaxed) && asleep_.exchange(false, std::memory_order_seq_cst)) {
      const uint64_t one = 1;
      [[maybe_unused]] const auto n = write(fd_, &one, sizeof one);
    }
  }

 private:
  // A full barrier. A read-modify-write is one on every machine, and unlike a fence ThreadSanitizer knows it.
  void fence() { barrier_.fetch_add(0, std::memory_order_seq_cst); }

  std::atomic<bool> asleep_{false};
  std::atomic<uint32_t> barrier_{0};
  int fd_;
};

}  // namespace kvpool
