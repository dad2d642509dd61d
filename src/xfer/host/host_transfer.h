// HostTransfer: copies and checksums within host memory, on worker threads.
//
// Threads: the owner calls submit(), poll() and the wait functions; each worker shares one bounded ring in
// and one out with it, and no lock. A job goes to the worker with the fewest bytes before it. Idle workers
// spin for some microseconds, then sleep. The destructor waits for the jobs that are in the rings, then ends
// the threads; their completions are lost. Failure: submit() refuses when every worker has
// jobs_per_worker_max jobs; jobs themselves cannot fail. Completions come in any order. Nothing allocates
// after construction.

#pragma once

#include <memory>
#include <vector>

#include "base/wakeup.h"
#include "xfer/transfer.h"

namespace kvpool {

class HostTransfer final : public Transfer {
 public:
  static constexpr uint32_t jobs_per_worker_max = 256;

  // REQUIRES: threads > 0.
  explicit HostTransfer(uint32_t threads);
  ~HostTransfer() override;

  [[nodiscard]] bool submit(const TransferJob& job) override;
  [[nodiscard]] size_t poll(std::span<TransferCompletion> out) override;
  [[nodiscard]] int wait_fd() const override { return done_.fd(); }
  void prepare_wait() override { done_.prepare(); }
  void done_wait() override { done_.done(); }

 private:
  struct Worker;

  Wakeup done_;  // the owner sleeps on it
  std::vector<std::unique_ptr<Worker>> workers_;
  size_t next_polled_ = 0;
};

}  // namespace kvpool
