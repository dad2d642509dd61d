// Fortified headers define some of these functions themselves.
#undef _FORTIFY_SOURCE

#include "apps/system_calls.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <liburing.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <ctime>
#include <fstream>

#include "base/assert.h"

#ifndef LIBURING_NOEXCEPT  // before liburing 2.6
#define LIBURING_NOEXCEPT
#endif

namespace kvpool {
namespace {

using bench::CallKind;

constexpr size_t threads_max = 512;
constexpr int eventfds_max = 4096;  // descriptors above are not known as eventfds, and count as I/O

struct ThreadSlot {
  std::atomic<pid_t> thread{0};
  std::array<std::atomic<uint64_t>, bench::call_kinds> calls{};
  std::array<std::atomic<int64_t>, bench::call_kinds> time_ns{};
  std::atomic<int64_t> entered_at_ns{0};  // 0: in no call
  std::atomic<size_t> kind{0};            // of the call that it is in
};

constinit std::array<ThreadSlot, threads_max> slots;
constinit std::atomic<uint32_t> slots_taken{0};
constinit std::atomic<uint64_t> counts{0};    // that were begun
constinit std::atomic<uint64_t> counting{0};  // the number of the count that runs, or 0
constinit std::atomic<int64_t> started_at_ns{0};
constinit std::array<std::atomic<bool>, eventfds_max> is_eventfd{};

constinit thread_local uint64_t slot_count = 0;  // the count that own_slot belongs to
constinit thread_local ThreadSlot* own_slot = nullptr;

int64_t now_ns() { return SteadyClock().now().count(); }

ThreadSlot& slot_of(uint64_t count) {
  if (slot_count == count) return *own_slot;
  const uint32_t index = slots_taken.fetch_add(1, std::memory_order_relaxed);
  KVPOOL_ASSERT(index < threads_max);
  slots[index].thread.store(static_cast<pid_t>(syscall(SYS_gettid)), std::memory_order_relaxed);
  slot_count = count;
  own_slot = &slots[index];
  return *own_slot;
}

template <class T>
void add(std::atomic<T>& counter, T value) {  // one writer
  counter.store(counter.load(std::memory_order_relaxed) + value, std::memory_order_relaxed);
}

class Counted {
 public:
  explicit Counted(CallKind kind)
      : kind_(static_cast<size_t>(kind)), count_(counting.load(std::memory_order_relaxed)) {
    if (count_ == 0) return;
    ThreadSlot& slot = slot_of(count_);
    add(slot.calls[kind_], uint64_t{1});
    slot.kind.store(kind_, std::memory_order_relaxed);
    slot.entered_at_ns.store(now_ns(), std::memory_order_relaxed);
  }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;
  ~Counted() {
    const uint64_t count = counting.load(std::memory_order_relaxed);
    if (count == 0) return;
    const int error = errno;
    ThreadSlot& slot = slot_of(count);
    int64_t entered_at = slot.entered_at_ns.load(std::memory_order_relaxed);
    if (count_ != count) {  // it was in this call already when the count began
      add(slot.calls[kind_], uint64_t{1});
      entered_at = started_at_ns.load(std::memory_order_relaxed);
    }
    add(slot.time_ns[kind_], now_ns() - entered_at);
    slot.entered_at_ns.store(0, std::memory_order_relaxed);
    errno = error;
  }

 private:
  size_t kind_;
  uint64_t count_;
};

CallKind kind_of(int fd) {
  const bool event = fd >= 0 && fd < eventfds_max && is_eventfd[fd].load(std::memory_order_relaxed);
  return event ? CallKind::message : CallKind::io;
}

CallKind kind_of_sleep() { return bench::storage_requests_under_way > 0 ? CallKind::wait : CallKind::idle; }

// What the function of this name would be without the one here.
template <class Function>
Function* next(const char* name) {
  void* const found = dlsym(RTLD_NEXT, name);
  KVPOOL_ASSERT(found != nullptr);
  return reinterpret_cast<Function*>(found);
}

std::string name_of(pid_t thread) {
  std::ifstream file(fmt::format("/proc/self/task/{}/comm", thread));
  std::string name;
  std::getline(file, name);
  return name;
}

}  // namespace

void start_counting_system_calls() {
  for (ThreadSlot& slot : slots) {
    for (auto& calls : slot.calls) calls.store(0, std::memory_order_relaxed);
    for (auto& time : slot.time_ns) time.store(0, std::memory_order_relaxed);
    slot.entered_at_ns.store(0, std::memory_order_relaxed);
  }
  slots_taken.store(0, std::memory_order_relaxed);
  started_at_ns.store(now_ns(), std::memory_order_relaxed);
  counting.store(counts.fetch_add(1) + 1, std::memory_order_seq_cst);
}

std::vector<bench::ThreadCalls> stop_counting_system_calls() {
  const int64_t now = now_ns();
  counting.store(0, std::memory_order_seq_cst);
  std::vector<bench::ThreadCalls> threads;
  for (uint32_t i = 0; i < slots_taken.load(std::memory_order_relaxed); ++i) {
    const ThreadSlot& slot = slots[i];
    bench::ThreadCalls thread{.thread = slot.thread.load(std::memory_order_relaxed)};
    for (size_t kind = 0; kind < bench::call_kinds; ++kind) {
      thread.kinds[kind] = {slot.calls[kind].load(std::memory_order_relaxed),
                            Nanos(slot.time_ns[kind].load(std::memory_order_relaxed))};
    }
    const int64_t entered_at = slot.entered_at_ns.load(std::memory_order_relaxed);
    if (entered_at != 0) {
      thread.kinds[slot.kind.load(std::memory_order_relaxed)].time +=
          Nanos(std::max<int64_t>(0, now - entered_at));
    }
    thread.name = name_of(thread.thread);
    threads.push_back(std::move(thread));
  }
  return threads;
}

}  // namespace kvpool

// The functions of the C library and of liburing, as their headers declare them. A call is one system call,
// but for io_uring_peek_batch_cqe.
using kvpool::Counted;
using kvpool::kind_of;
using kvpool::kind_of_sleep;
using kvpool::next;
using kvpool::bench::CallKind;

extern "C" {

ssize_t read(int fd, void* buffer, size_t bytes) {
  static auto* const real = next<decltype(read)>("read");
  const Counted counted(kind_of(fd));
  return real(fd, buffer, bytes);
}

ssize_t write(int fd, const void* buffer, size_t bytes) {
  static auto* const real = next<decltype(write)>("write");
  const Counted counted(kind_of(fd));
  return real(fd, buffer, bytes);
}

ssize_t pread(int fd, void* buffer, size_t bytes, off_t offset) {
  static auto* const real = next<decltype(pread)>("pread");
  const Counted counted(kind_of(fd));
  return real(fd, buffer, bytes, offset);
}

ssize_t pwrite(int fd, const void* buffer, size_t bytes, off_t offset) {
  static auto* const real = next<decltype(pwrite)>("pwrite");
  const Counted counted(kind_of(fd));
  return real(fd, buffer, bytes, offset);
}

ssize_t readv(int fd, const iovec* parts, int count) {
  static auto* const real = next<decltype(readv)>("readv");
  const Counted counted(kind_of(fd));
  return real(fd, parts, count);
}

ssize_t writev(int fd, const iovec* parts, int count) {
  static auto* const real = next<decltype(writev)>("writev");
  const Counted counted(kind_of(fd));
  return real(fd, parts, count);
}

ssize_t recv(int fd, void* buffer, size_t bytes, int flags) {
  static auto* const real = next<decltype(recv)>("recv");
  const Counted counted(kind_of(fd));
  return real(fd, buffer, bytes, flags);
}

ssize_t send(int fd, const void* buffer, size_t bytes, int flags) {
  static auto* const real = next<decltype(send)>("send");
  const Counted counted(kind_of(fd));
  return real(fd, buffer, bytes, flags);
}

ssize_t recvmsg(int fd, msghdr* message, int flags) {
  static auto* const real = next<decltype(recvmsg)>("recvmsg");
  const Counted counted(kind_of(fd));
  return real(fd, message, flags);
}

ssize_t sendmsg(int fd, const msghdr* message, int flags) {
  static auto* const real = next<decltype(sendmsg)>("sendmsg");
  const Counted counted(kind_of(fd));
  return real(fd, message, flags);
}

int openat(int folder, const char* path, int flags, ...) {
  static auto* const real = next<int(int, const char*, int, mode_t)>("openat");
  va_list rest;
  va_start(rest, flags);
  const mode_t mode = (flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(rest, mode_t) : 0;
  va_end(rest);
  const Counted counted(CallKind::io);
  return real(folder, path, flags, mode);
}

int close(int fd) {
  static auto* const real = next<decltype(close)>("close");
  const Counted counted(kind_of(fd));
  if (fd >= 0 && fd < kvpool::eventfds_max) kvpool::is_eventfd[fd].store(false, std::memory_order_relaxed);
  return real(fd);
}

int posix_fadvise(int fd, off_t offset, off_t bytes, int advice) noexcept {
  static auto* const real = next<decltype(posix_fadvise)>("posix_fadvise");
  const Counted counted(kind_of(fd));
  return real(fd, offset, bytes, advice);
}

int poll(pollfd* fds, nfds_t count, int timeout_ms) {
  static auto* const real = next<decltype(poll)>("poll");
  const Counted counted(kind_of_sleep());
  return real(fds, count, timeout_ms);
}

int ppoll(pollfd* fds, nfds_t count, const timespec* timeout, const sigset_t* signals) {
  static auto* const real = next<decltype(ppoll)>("ppoll");
  const Counted counted(kind_of_sleep());
  return real(fds, count, timeout, signals);
}

int epoll_wait(int fd, epoll_event* events, int count, int timeout_ms) {
  static auto* const real = next<decltype(epoll_wait)>("epoll_wait");
  const Counted counted(kind_of_sleep());
  return real(fd, events, count, timeout_ms);
}

int nanosleep(const timespec* time, timespec* left) {
  static auto* const real = next<decltype(nanosleep)>("nanosleep");
  const Counted counted(kind_of_sleep());
  return real(time, left);
}

int eventfd(unsigned count, int flags) noexcept {
  static auto* const real = next<decltype(eventfd)>("eventfd");
  const int fd = real(count, flags);
  if (fd >= 0 && fd < kvpool::eventfds_max) kvpool::is_eventfd[fd].store(true, std::memory_order_relaxed);
  return fd;
}

int io_uring_submit(io_uring* ring) LIBURING_NOEXCEPT {
  static auto* const real = next<decltype(io_uring_submit)>("io_uring_submit");
  const Counted counted(CallKind::io);
  return real(ring);
}

int io_uring_submit_and_get_events(io_uring* ring) LIBURING_NOEXCEPT {
  static auto* const real = next<decltype(io_uring_submit_and_get_events)>("io_uring_submit_and_get_events");
  const Counted counted(CallKind::io);
  return real(ring);
}

unsigned io_uring_peek_batch_cqe(io_uring* ring, io_uring_cqe** cqes, unsigned count) LIBURING_NOEXCEPT {
  static auto* const real = next<decltype(io_uring_peek_batch_cqe)>("io_uring_peek_batch_cqe");
  // It enters the kernel only where that has completions which are not in the ring yet.
  const bool enters = io_uring_cq_ready(ring) == 0 && (IO_URING_READ_ONCE(*ring->sq.kflags) &
                                                       (IORING_SQ_CQ_OVERFLOW | IORING_SQ_TASKRUN)) != 0;
  if (!enters) return real(ring, cqes, count);
  const Counted counted(CallKind::io);
  return real(ring, cqes, count);
}

}  // extern "C"
