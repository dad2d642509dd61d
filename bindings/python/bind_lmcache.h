// LMCacheAdapter: what LMCache's native_plugin calls. It only turns Python's lists into batches and back; the
// work is the worker's (connectors/lmcache/worker.h).
//
// Thread: any that holds the GIL, several at a time; close() lets go of it while it waits. The values' memory
// is held until its batch is taken by drain_completions(). In a forked child it does nothing but be
// forgotten: its thread and the pool are the parent's. Failure: PoolError for a wrong call, and for a pool
// that does not close; what comes of a batch is in its completion.

#pragma once

#include <nanobind/nanobind.h>
#include <sys/types.h>

#include <memory>
#include <mutex>

#include "connectors/lmcache/batch.h"
#include "connectors/lmcache/worker.h"
#include "pool.h"

namespace kvpool::python {

class LMCacheAdapter final : public Closable {
 public:
  // The pool closes it first when it is closed, and goes with it.
  [[nodiscard]] static std::shared_ptr<LMCacheAdapter> open(std::shared_ptr<Pool> pool,
                                                            const lmcache::WorkerOptions& options);
  ~LMCacheAdapter() override;
  LMCacheAdapter(const LMCacheAdapter&) = delete;
  LMCacheAdapter& operator=(const LMCacheAdapter&) = delete;

  // The same number after close().
  [[nodiscard]] int event_fd() const { return worker_->event_fd(); }
  [[nodiscard]] uint64_t submit(lmcache::BatchKind kind, nanobind::handle keys, nanobind::handle values);
  // [(id, ok, error, [bool] or None)]
  [[nodiscard]] nanobind::list drain_completions();
  // What is under way ends as failed. TIMED_OUT: a device still holds values; it may be called again.
  void close(double timeout_s) override;
  void close_with_pool(double timeout_s);

 private:
  LMCacheAdapter(std::shared_ptr<Pool> pool, const lmcache::WorkerOptions& options);

  std::shared_ptr<Pool> pool_;
  kvpool_consumer* consumer_ = nullptr;
  std::unique_ptr<lmcache::Worker> worker_;
  uint64_t last_id_ = 0;
  bool closing_ = false;
  std::mutex close_mutex_;  // taken without the GIL: a second close() waits for the first
};

void bind_lmcache(nanobind::module_& module);

}  // namespace kvpool::python
