#include "xfer/host/host_transfer.h"

#include <poll.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>

#include "base/assert.h"
#include "base/checksum.h"
#include "base/ring.h"
#include "xfer/host/copy.h"

namespace kvpool {
namespace {

struct Done {
  TransferCompletion completion;
  uint64_t cost_bytes = 0;
};

// While a worker has more to do, it wakes its owner once for so many bytes, and before a job that is larger:
// waking takes it microseconds in the kernel, a tenth of the time that a segment takes. At a core's copy rate
// this is about 0.1 ms.
constexpr uint64_t tell_bytes = 2ULL << 20;

// A job of no bytes still costs a trip.
uint64_t cost_bytes(const TransferJob& job) { return 512 + job.length_bytes; }

void cpu_relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

Done carry_out(const TransferJob& job) {
  Done done;
  done.completion.tag = job.tag;
  done.cost_bytes = cost_bytes(job);
  if (job.destination == nullptr) {
    if (job.sum) done.completion.checksum = checksum({job.source, job.length_bytes}, job.seed);
    return done;
  }
  if (job.sum) {
    done.completion.checksum = copy_and_checksum(job.destination, job.source, job.length_bytes, job.seed);
  } else {
    copy_bytes(job.destination, job.source, job.length_bytes);
  }
  if (job.pad_bytes > 0) std::memset(job.destination + job.length_bytes, 0, job.pad_bytes);
  return done;
}

}  // namespace

struct HostTransfer::Worker {
  SpscRing<TransferJob, jobs_per_worker_max> jobs;
  SpscRing<Done, jobs_per_worker_max> done;
  Wakeup work;  // the worker sleeps on it
  std::atomic<bool> stop{false};
  std::thread thread;
  // The owner's alone.
  uint32_t jobs_under_way = 0;
  uint64_t bytes_under_way = 0;

  ~Worker() {
    stop_soon();
    if (thread.joinable()) thread.join();
  }
  void stop_soon() {
    stop.store(true, std::memory_order_release);
    work.notify();
  }
  void run(Wakeup& owner, uint32_t spins);
  [[nodiscard]] bool wait_for_job(TransferJob& job, uint32_t spins);
};

// False: told to stop, and no job is left.
bool HostTransfer::Worker::wait_for_job(TransferJob& job, uint32_t spins) {
  for (uint32_t i = 0; i < spins; ++i) {
    if (jobs.pop(job)) return true;
    cpu_relax();
  }
  while (!jobs.pop(job)) {
    if (stop.load(std::memory_order_acquire)) return jobs.pop(job);
    work.prepare();
    if (jobs.empty() && !stop.load(std::memory_order_acquire)) {
      pollfd readable{work.fd(), POLLIN, 0};
      ::poll(&readable, 1, -1);
    }
    work.done();
  }
  return true;
}

void HostTransfer::Worker::run(Wakeup& owner, uint32_t spins) {
  pthread_setname_np(pthread_self(), "kvpool-copy");
  TransferJob job;
  uint64_t untold_bytes = 0;
  while (wait_for_job(job, spins)) {
    if (untold_bytes > 0 && untold_bytes + cost_bytes(job) > tell_bytes) {
      owner.notify();
      untold_bytes = 0;
    }
    // The owner has at most as many jobs here as the ring has slots.
    const bool pushed = done.push(carry_out(job));
    KVPOOL_ASSERT(pushed);
    untold_bytes += cost_bytes(job);
    if (!jobs.empty()) continue;
    owner.notify();
    untold_bytes = 0;
  }
}

HostTransfer::HostTransfer(uint32_t threads) {
  KVPOOL_ASSERT(threads > 0);
  // Where every core has a thread of ours to run already, a spinning worker would keep another from working.
  const uint32_t spins = threads + 1 < std::thread::hardware_concurrency() ? 2000 : 50;
  workers_.reserve(threads);
  for (uint32_t i = 0; i < threads; ++i) {
    workers_.push_back(std::make_unique<Worker>());
    Worker& worker = *workers_.back();
    worker.thread = std::thread([this, &worker, spins] { worker.run(done_, spins); });
  }
}

HostTransfer::~HostTransfer() {
  for (const auto& worker : workers_) worker->stop_soon();
}

bool HostTransfer::submit(const TransferJob& job) {
  Worker* best = nullptr;
  for (const auto& worker : workers_) {
    if (worker->jobs_under_way == jobs_per_worker_max) continue;
    if (best == nullptr || worker->bytes_under_way < best->bytes_under_way) best = worker.get();
  }
  if (best == nullptr || !best->jobs.push(job)) return false;
  ++best->jobs_under_way;
  best->bytes_under_way += cost_bytes(job);
  best->work.notify();
  return true;
}

size_t HostTransfer::poll(std::span<TransferCompletion> out) {
  size_t count = 0;
  // Starting with another worker each time, so that a short `out` starves none.
  for (size_t i = 0; i < workers_.size() && count < out.size(); ++i) {
    Worker& worker = *workers_[(next_polled_ + i) % workers_.size()];
    Done done;
    while (count < out.size() && worker.done.pop(done)) {
      --worker.jobs_under_way;
      worker.bytes_under_way -= done.cost_bytes;
      out[count++] = done.completion;
    }
  }
  next_polled_ = (next_polled_ + 1) % workers_.size();
  return count;
}

}  // namespace kvpool
