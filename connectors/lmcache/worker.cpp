// The thread, its queues, and the way of a batch through them.

#include "connectors/lmcache/worker.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

namespace kvpool::lmcache {
namespace {

constexpr uint32_t batches_max = 65536;
// Together less than the 256 slots of a consumer.
constexpr uint32_t data_tasks_most = 32;
constexpr uint32_t key_tasks_max = 64;

// The more in one request, the fewer messages; the fewer, the less one request pins, and the more requests
// share the work.
constexpr uint32_t segments_a_task = 64;
constexpr uint32_t keys_a_lookup = 16;
constexpr uint32_t keys_a_removal = 1024;

}  // namespace

EventFd::EventFd() : fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  if (fd_ < 0) throw std::system_error(errno, std::generic_category(), "eventfd (see ulimit -n)");
}

EventFd::~EventFd() { close(fd_); }

void EventFd::signal() const {
  const uint64_t one = 1;
  [[maybe_unused]] const auto written = write(fd_, &one, sizeof one);
}

void EventFd::reset() const {
  uint64_t ignored = 0;
  [[maybe_unused]] const auto got = read(fd_, &ignored, sizeof ignored);
}

Worker::Worker(kvpool_pool* pool, kvpool_consumer* consumer, const WorkerOptions& options)
    : consumer_(consumer),
      lengths_(pool, options.lengths_max),
      huge_pages_(options.huge_pages),
      tasks_(data_tasks_most + key_tasks_max),
      data_tasks_max_(data_tasks_most) {
  for (uint32_t i = static_cast<uint32_t>(tasks_.size()); i > 0; --i) free_tasks_.push_back(i - 1);
  thread_ = std::thread([this] { run(); });
}

Worker::~Worker() { stop(); }

bool Worker::submit(std::unique_ptr<Batch>& batch) {
  bool wake = false;
  {
    const std::lock_guard lock(mutex_);
    if (stopping_ || accepted_ == batches_max) return false;
    ++accepted_;
    inbox_.push_back(std::move(batch));
    wake = std::exchange(asleep_, false);
  }
  if (wake) wake_event_.signal();
  return true;
}

void Worker::done(std::unique_ptr<Batch> batch) {
  const std::lock_guard lock(mutex_);
  if (done_.empty()) done_event_.signal();
  done_.push_back(std::move(batch));
}

std::vector<std::unique_ptr<Batch>> Worker::take_done() {
  std::vector<std::unique_ptr<Batch>> taken;
  const std::lock_guard lock(mutex_);
  done_event_.reset();
  std::swap(taken, done_);
  return taken;
}

void Worker::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_event_.signal();
  if (thread_.joinable()) thread_.join();
}

void Worker::fail_all(const std::string& why) {
  {
    const std::lock_guard lock(mutex_);
    std::swap(taken_, inbox_);
  }
  for (std::unique_ptr<Batch>& batch : taken_) under_way_.emplace(batch->id, std::move(batch));
  taken_.clear();
  for (auto& [id, batch] : std::exchange(under_way_, {})) {
    batch->fail(why);
    done(std::move(batch));
  }
}

void Worker::run() {
  pthread_setname_np(pthread_self(), "kvpool-lmcache");
  for (;;) {
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) return;
    }
    bool worked = take_inbox();
    worked |= take_completions();
    worked |= start_tasks();
    if (!worked) sleep();
  }
}

void Worker::sleep() {
  {
    const std::lock_guard lock(mutex_);
    if (stopping_ || !inbox_.empty()) return;
    asleep_ = true;
  }
  if (kvpool_arm(consumer_) != 0) {
    std::array<pollfd, 2> wanted = {pollfd{.fd = kvpool_event_fd(consumer_), .events = POLLIN, .revents = 0},
                                    pollfd{.fd = wake_event_.fd(), .events = POLLIN, .revents = 0}};
    ::poll(wanted.data(), wanted.size(), -1);
  }
  const std::lock_guard lock(mutex_);
  if (!std::exchange(asleep_, false)) wake_event_.reset();
}

bool Worker::take_inbox() {
  {
    const std::lock_guard lock(mutex_);
    std::swap(taken_, inbox_);
  }
  const bool any = !taken_.empty();
  for (std::unique_ptr<Batch>& batch : taken_) accept(std::move(batch));
  taken_.clear();
  return any;
}

void Worker::accept(std::unique_ptr<Batch> batch) {
  Batch& its = *batch;
  under_way_.emplace(its.id, std::move(batch));
  const auto count = static_cast<uint32_t>(its.keys.size());
  its.found.assign(count, 0);
  if (its.moves_data()) {
    order_by_length(its);
  } else if (count > 0) {
    its.ordered_keys = its.keys;
    its.groups.push_back({.end = count});
  }
  if (its.groups.empty()) return end_if_over(its);
  its.next = its.groups[0].begin;
  (its.moves_data() ? data_turns_ : key_turns_).push_back(&its);
}

void Worker::order_by_length(Batch& batch) {
  const auto count = static_cast<uint32_t>(batch.keys.size());
  batch.order.resize(count);
  for (uint32_t i = 0; i < count; ++i) batch.order[i] = i;
  const auto bytes = [&](uint32_t entry) { return batch.values[entry].size(); };
  const auto by_bytes = [&](uint32_t entry) { return std::pair(bytes(entry), entry); };
  if (!std::ranges::is_sorted(batch.order, {}, by_bytes)) std::ranges::sort(batch.order, {}, by_bytes);
  batch.ordered_keys.reserve(count);
  for (const uint32_t entry : batch.order) batch.ordered_keys.push_back(batch.keys[entry]);
  for (uint32_t begin = 0; begin < count;) {
    uint32_t end = begin + 1;
    while (end < count && bytes(batch.order[end]) == bytes(batch.order[begin])) ++end;
    add_group(batch, begin, end);
    begin = end;
  }
}

// None where no value of that length can be, or can have been stored.
void Worker::add_group(Batch& batch, uint32_t begin, uint32_t end) {
  const uint64_t bytes = batch.values[batch.order[begin]].size();
  std::string why;
  const Length* length = batch.kind == BatchKind::set ? lengths_.open(bytes, why) : lengths_.find(bytes);
  if (length == nullptr) {
    if (batch.kind == BatchKind::set) batch.fail(why);
    return;
  }
  batch.groups.push_back({.length = length, .begin = begin, .end = end, .addresses = batch.addresses.size()});
  for (uint32_t i = begin; i < end; ++i) {
    const uint64_t address = kvpool_address(consumer_, batch.values[batch.order[i]].data());
    for (uint64_t s = 0; s < length->segments; ++s) {
      batch.addresses.push_back(address + s * length->segment_bytes);
    }
  }
}

bool Worker::take_completions() {
  std::array<kvpool_completion, 64> taken;
  bool any = false;
  for (uint32_t count = taken.size(); count == taken.size();) {
    count = kvpool_poll(consumer_, taken.data(), static_cast<uint32_t>(taken.size()));
    any |= count > 0;
    for (uint32_t i = 0; i < count; ++i) {
      Task& task = tasks_[taken[i].user_data];
      if (taken[i].kind == KVPOOL_RESULT) {
        task.result = taken[i];
      } else {
        came_back(task);
      }
    }
  }
  return any;
}

bool Worker::start_tasks() {
  bool worked = false;
  for (; key_tasks_ < key_tasks_max && !key_turns_.empty(); worked = true) start_from(key_turns_);
  worked |= retry_waiting();
  bool slow = false;
  for (; waiting_.empty() && data_tasks_ < data_tasks_max_ && !data_turns_.empty() && !slow; worked = true) {
    // One at a time: lookups do not wait for more of them.
    slow = use_huge_pages(*data_turns_.front());
    start_from(data_turns_);
  }
  return worked;
}

bool Worker::retry_waiting() {
  if (waiting_.empty() || (!room_may_be_ && data_tasks_ > 0)) return false;
  room_may_be_ = false;
  Task* task = waiting_.front();
  waiting_.pop_front();
  proceed(*task);
  return true;
}

// The batch whose turn it is gets one task, and the next turn is another's.
void Worker::start_from(std::deque<Batch*>& turns) {
  Batch& batch = *turns.front();
  turns.pop_front();
  Task& task = tasks_[free_tasks_.back()];
  free_tasks_.pop_back();
  begin(task, batch);
  if (!batch.started()) turns.push_back(&batch);
  proceed(task);
}

uint32_t Worker::next_end(const Batch& batch) {
  const Batch::Group& group = batch.groups[batch.group];
  uint32_t most = batch.kind == BatchKind::exists ? keys_a_lookup : keys_a_removal;
  if (batch.moves_data()) most = std::max(1U, segments_a_task / group.length->segments);
  return std::min(group.end, batch.next + most);
}

// For the values of its next task. Whether that took long.
bool Worker::use_huge_pages(const Batch& batch) {
  task_values_.clear();
  for (uint32_t i = batch.next; i < next_end(batch); ++i)
    task_values_.push_back(batch.values[batch.order[i]]);
  return huge_pages_.use_for(task_values_);
}

void Worker::begin(Task& task, Batch& batch) {
  const Batch::Group& group = batch.groups[batch.group];
  const uint32_t end = next_end(batch);
  const auto lengths = static_cast<uint32_t>(lengths_.size());
  task = {.batch = &batch,
          .group = &group,
          .first = batch.next,
          .end = end,
          .at = batch.next,
          .most = end - batch.next,
          .lengths = lengths,
          .length = batch.kind == BatchKind::exists && likely_ < lengths ? likely_ : 0};
  ++batch.tasks;
  batch.next = task.end;
  if (task.end < group.end) return;
  ++batch.group;
  if (!batch.started()) batch.next = batch.groups[batch.group].begin;
}

void Worker::end(Task& task) {
  Batch& batch = *task.batch;
  free_tasks_.push_back(static_cast<uint32_t>(&task - tasks_.data()));
  --batch.tasks;
  end_if_over(batch);
}

void Worker::end_if_over(Batch& batch) {
  if (batch.tasks > 0 || !batch.started()) return;
  const auto found = under_way_.find(batch.id);
  std::unique_ptr<Batch> ended = std::move(found->second);
  under_way_.erase(found);
  // Removed, or never there: either way the key is gone.
  if (ended->kind == BatchKind::remove) ended->found.assign(ended->keys.size(), ended->ok ? 1 : 0);
  {
    const std::lock_guard lock(mutex_);
    --accepted_;
  }
  done(std::move(ended));
}

}  // namespace kvpool::lmcache
