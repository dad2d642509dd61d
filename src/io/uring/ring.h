// Ring: what the devices that go through io_uring have in common: one ring with one descriptor, memory that
// is registered with it, and a slot for each request under way.
//
// Threads: make() and the destructor on any thread; start() and all else on the owner thread. The ring is
// made before the engine runs, so that a machine that cannot have one says so, but it is bound to its thread
// in start(). Nothing allocates after start().

#pragma once

#include <liburing.h>

#include <algorithm>
#include <array>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/assert.h"
#include "base/clock.h"
#include "io/bounded_queue.h"
#include "io/device.h"
#include "io/poll_pace.h"

namespace kvpool {

class Ring {
 public:
  // name: of the device, for messages.
  Ring(std::string name, uint32_t queue_depth);
  ~Ring();
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  // Errc::unsupported where io_uring is forbidden, or too old for `flags` (IORING_SETUP_SQE128 and the like).
  // poll_slack: nothing announces completions (IORING_SETUP_IOPOLL); they are looked for, so late by at most
  // that part of their latency (PollPace). Afterwards wait_fd() is -1, and next_event_time() says all.
  [[nodiscard]] Status make(unsigned flags = 0, std::optional<double> poll_slack = {});
  // Before start(): memory that is registered too, if it can be.
  void offer(std::span<std::byte> memory) { offered_.push_back(memory); }
  // Registers the descriptors, of which requests go to the first, and the memory in which most buffers will
  // lie. Where that is refused all works, more slowly, and it is said. The kernel holds the descriptors'
  // files as long as a request is under way, even when this process is gone.
  [[nodiscard]] Status start(std::span<const int> fds, std::span<const std::span<std::byte>> regions);
  [[nodiscard]] bool registered() const { return !registered_.empty(); }
  // As the kernel has it: in pieces, by address.
  [[nodiscard]] std::span<const std::span<std::byte>> registered_pieces() const { return registered_; }
  // -1: not wholly in one registered piece.
  [[nodiscard]] int registered_index(const std::byte* buffer, uint32_t length_bytes) const;
  // From here on all memory is as if it were not registered.
  void forget_registered();
  [[nodiscard]] uint32_t queue_depth() const { return static_cast<uint32_t>(slots_.size()); }
  [[nodiscard]] bool is_idle() const { return free_slots_.full(); }

  // prepare(io_uring_sqe&, int index): index is that of the registered buffer in which the request's lies, or
  // -1. False: the ring is full.
  template <class Prepare>
  [[nodiscard]] bool submit(const IoRequest& request, Prepare&& prepare) {
    if (free_slots_.empty()) return false;
    io_uring_sqe* const sqe = io_uring_get_sqe(&ring_);
    if (sqe == nullptr) return false;
    const uint32_t slot = free_slots_.pop();
    slots_[slot] = {request.tag, request.length_bytes, Nanos{0}};
    prepare(*sqe, registered_index(request.buffer, request.length_bytes));
    sqe->flags |= IOSQE_FIXED_FILE;
    io_uring_sqe_set_data64(sqe, slot);
    if (pace_) {
      slots_[slot].submitted_at = clock_.now();
      pace_->submitted(slots_[slot].submitted_at);
    }
    return true;
  }

  // Sends what has gathered with one system call, and takes completions out without one where the kernel has
  // them ready. judge(int32_t result, uint32_t length, IoCompletion&) sets bytes and code; false: it was a
  // request of the device's own, of which nobody is told. With poll_slack each look is a system call.
  template <class Judge>
  [[nodiscard]] size_t poll(std::span<IoCompletion> out, Judge&& judge) {
    const bool looks = pace_ && pace_->in_flight() > 0;
    if (looks || io_uring_sq_ready(&ring_) > 0) send();
    const Nanos now = looks ? clock_.now() : Nanos{0};
    size_t count = 0;
    while (count < out.size() && !is_idle()) {
      std::array<io_uring_cqe*, reap_max> cqes;
      const auto wanted = static_cast<unsigned>(std::min(out.size() - count, cqes.size()));
      const unsigned came = io_uring_peek_batch_cqe(&ring_, cqes.data(), wanted);
      for (unsigned i = 0; i < came; ++i) {
        const Slot slot = free_slot(cqes[i]->user_data);
        if (pace_) pace_->completed(slot.submitted_at, now);
        out[count] = {.tag = slot.tag};
        if (judge(cqes[i]->res, slot.length_bytes, out[count])) ++count;
      }
      io_uring_cq_advance(&ring_, came);
      if (came < wanted) break;
    }
    if (looks) pace_->looked(now);
    return count;
  }

  [[nodiscard]] int wait_fd() const { return pace_ ? -1 : ring_.ring_fd; }
  // Requests that the kernel would not take yet are sent by the next poll().
  [[nodiscard]] Nanos next_event_time() const {
    if (io_uring_sq_ready(&ring_) > 0) return Nanos{0};
    if (!pace_) return never;
    return io_uring_cq_ready(&ring_) > 0 ? Nanos{0} : pace_->next_look();
  }
  // The first failure of a device's requests is logged, the others are only counted.
  void log_failure(std::string_view what);

 private:
  static constexpr size_t reap_max = 64;
  struct Slot {
    uint64_t tag = 0;
    uint32_t length_bytes = 0;
    Nanos submitted_at{0};  // for the pace
  };

  void register_regions(std::span<const std::span<std::byte>> regions);
  [[nodiscard]] int register_pieces(std::span<const std::span<std::byte>> regions);
  void send();
  Slot free_slot(uint64_t number);

  std::string name_;
  io_uring ring_{};
  bool made_ = false;
  SteadyClock clock_;
  std::optional<PollPace> pace_;
  bool failure_logged_ = false;
  std::vector<std::span<std::byte>> offered_;
  std::vector<std::span<std::byte>> registered_;  // the kernel's buffers, in its order, which is by address
  std::vector<Slot> slots_;
  BoundedQueue<uint32_t> free_slots_;
};

}  // namespace kvpool
