// Worker: the thread that owns the adapter's consumer and turns batches into requests of the C API.
//
// A batch becomes tasks, one request under way for each: a set or a get one for some values of the same
// length, an exists or a remove one for some keys. What a request leaves over (values behind one that was
// missing, keys that may be in another length's namespace) the same task asks for next. Batches take turns. A
// key is asked for in those lengths alone in which it may have been stored.
//
// A store that finds no room may only be waiting for what other requests pin: it is tried again when one of
// them ends, nothing new is started meanwhile, and it fails when it was alone and found none.
//
// Threads: submit(), take_done() and event_fd() on any; stop() and fail_all() on one. The thread never takes
// the GIL, and its lock is held for pointer moves only: a caller that holds the GIL never waits for work.
// Failure: a batch ends in any case, failed or not, with what was done of it.

#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "connectors/lmcache/batch.h"
#include "connectors/lmcache/huge_pages.h"
#include "connectors/lmcache/lengths.h"
#include "connectors/lmcache/stored_keys.h"
#include "kvpool/kvpool.h"

namespace kvpool::lmcache {

// Closed with its owner. The constructor throws where the process has no descriptor left.
class EventFd {
 public:
  EventFd();
  EventFd(const EventFd&) = delete;
  EventFd& operator=(const EventFd&) = delete;
  ~EventFd();

  [[nodiscard]] int fd() const { return fd_; }
  void signal() const;
  void reset() const;

 private:
  int fd_;
};

struct WorkerOptions {
  uint32_t lengths_max = 64;
  bool huge_pages = true;  // for the values' memory
};

class Worker {
 public:
  // Neither is owned, and both outlive it. REQUIRES: all memory of the process is a region of the consumer.
  Worker(kvpool_pool* pool, kvpool_consumer* consumer, const WorkerOptions& options);
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // Readable while take_done() has something.
  [[nodiscard]] int event_fd() const { return done_event_.fd(); }
  // False, and the batch stays: too many are under way, or the worker was stopped.
  [[nodiscard]] bool submit(std::unique_ptr<Batch>& batch);
  // One that was never under way, or has ended: the next take_done() has it.
  void done(std::unique_ptr<Batch> batch);
  [[nodiscard]] std::vector<std::unique_ptr<Batch>> take_done();

  // Ends the thread. What is under way stays so.
  void stop();
  // REQUIRES: stop(), and a closed consumer: nothing touches the values any more.
  void fail_all(const std::string& why);

 private:
  enum class Next : uint8_t { over, again, later };
  struct Task {
    Batch* batch = nullptr;
    const Batch::Group* group = nullptr;
    uint32_t first = 0;  // entries [first, end) of the batch's order
    uint32_t end = 0;
    uint32_t at = 0;  // the request's: [at, until)
    uint32_t until = 0;
    uint32_t most = 0;     // in one request
    uint32_t lengths = 0;  // how many there were when it began
    uint32_t length = 0;   // whose namespace is asked for keys
    uint32_t asked = 0;    // of the lengths
    bool alone = false;    // nothing else moved data when it was sent
    uint64_t sent = 0;
    kvpool_completion result{};
  };

  // ---- the thread and its queues (worker.cpp)
  void run();
  void sleep();
  [[nodiscard]] bool take_inbox();
  [[nodiscard]] bool take_completions();
  [[nodiscard]] bool start_tasks();
  [[nodiscard]] bool retry_waiting();
  void start_from(std::deque<Batch*>& turns);
  [[nodiscard]] static uint32_t next_end(const Batch& batch);
  [[nodiscard]] bool use_huge_pages(const Batch& batch);
  void accept(std::unique_ptr<Batch> batch);
  void order_by_length(Batch& batch);
  void add_group(Batch& batch, uint32_t begin, uint32_t end);
  void begin(Task& task, Batch& batch);
  void end(Task& task);
  void end_if_over(Batch& batch);

  // ---- what a task asks, and what it makes of the answer (tasks.cpp)
  void proceed(Task& task);
  void came_back(Task& task);
  [[nodiscard]] bool prepare(Task& task) const;
  [[nodiscard]] bool is_wanted(const Task& task, uint32_t entry) const;
  [[nodiscard]] bool next_keys(Task& task) const;
  [[nodiscard]] bool is_storing(const Task& task) const;
  [[nodiscard]] kvpool_status send(Task& task);
  [[nodiscard]] Next digest(Task& task);
  [[nodiscard]] Next digest_get(Task& task);
  [[nodiscard]] Next digest_store(Task& task);
  [[nodiscard]] Next digest_remove(Task& task);
  [[nodiscard]] Next digest_exists(Task& task);
  [[nodiscard]] Next wait(Task& task, const char* why);
  [[nodiscard]] Next give_up(Task& task);
  [[nodiscard]] Next halve(Task& task);
  void mark_found(Task& task, uint32_t count);

  kvpool_consumer* consumer_;
  Lengths lengths_;
  StoredKeys stored_;
  HugePages huge_pages_;
  std::vector<std::span<std::byte>> task_values_;  // scratch
  std::vector<Task> tasks_;
  std::vector<uint32_t> free_tasks_;
  std::unordered_map<uint64_t, std::unique_ptr<Batch>> under_way_;  // by id
  std::deque<Batch*> data_turns_;                                   // that have tasks to start
  std::deque<Batch*> key_turns_;
  std::deque<Task*> waiting_;  // for room in the pool, or for a ticket
  uint32_t data_tasks_ = 0;    // sent and not back
  uint32_t key_tasks_ = 0;
  uint32_t data_tasks_max_;
  uint64_t sent_ = 0;
  uint32_t likely_ = 0;       // the length in which keys were found last
  bool room_may_be_ = false;  // something ended since a task began to wait

  std::mutex mutex_;
  std::vector<std::unique_ptr<Batch>> inbox_;
  std::vector<std::unique_ptr<Batch>> taken_;  // the worker's; keeps its memory
  std::vector<std::unique_ptr<Batch>> done_;
  uint32_t accepted_ = 0;  // submitted and not done
  bool asleep_ = false;
  bool stopping_ = false;
  EventFd wake_event_;
  EventFd done_event_;
  std::thread thread_;
};

}  // namespace kvpool::lmcache
