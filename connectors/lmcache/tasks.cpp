// What a task asks of the pool, and what it makes of the answer.

#include <algorithm>
#include <string>
#include <utility>

#include "connectors/lmcache/worker.h"

namespace kvpool::lmcache {

// Until a request is under way, or the task is over.
void Worker::proceed(Task& task) {
  const bool is_data = task.batch->moves_data();
  uint32_t& under_way = is_data ? data_tasks_ : key_tasks_;
  while (prepare(task)) {
    task.alone = data_tasks_ == 0;
    if (is_data) task.sent = ++sent_;
    const kvpool_status status = send(task);
    if (status == KVPOOL_OK) {
      ++under_way;
      return;
    }
    task.result = {.kind = KVPOOL_RESULT, .status = status};
    const Next next = digest(task);
    if (next == Next::later) {
      waiting_.push_back(&task);
      return;
    }
    if (next == Next::over) break;
  }
  end(task);
}

// The request is released: nothing touches its keys and values any more.
void Worker::came_back(Task& task) {
  const bool is_data = task.batch->moves_data();
  --(is_data ? data_tasks_ : key_tasks_);
  const Next next = digest(task);
  if (next == Next::later) {
    waiting_.push_back(&task);
    return;
  }
  room_may_be_ |= is_data;
  if (next == Next::again) return proceed(task);
  end(task);
}

// A key has one length: before it is stored with one it is removed from the others.
bool Worker::is_storing(const Task& task) const { return task.asked == task.lengths; }

// Chooses what is asked next; false where there is nothing more.
bool Worker::prepare(Task& task) const {
  const bool is_by_length = task.batch->kind != BatchKind::get && !is_storing(task);
  if (is_by_length && next_keys(task)) return true;
  if (!task.batch->moves_data()) return false;
  task.until = std::min(task.end, task.at + task.most);
  return task.at < task.end;
}

// Whether an entry is to be asked for in the length whose turn it is.
bool Worker::is_wanted(const Task& task, uint32_t entry) const {
  if (!stored_.may_have(task.batch->ordered_keys[entry], task.length)) return false;
  switch (task.batch->kind) {
    case BatchKind::exists:
      return task.batch->found[entry] == 0;
    case BatchKind::set:
      return task.length != task.group->length->number;
    default:
      return true;
  }
}

// The next wanted keys side by side, in this length's namespace or in the next one's.
bool Worker::next_keys(Task& task) const {
  while (task.asked < task.lengths) {
    while (task.at < task.end && !is_wanted(task, task.at)) ++task.at;
    if (task.at < task.end) {
      const uint32_t end = std::min(task.end, task.at + task.most);
      task.until = task.at + 1;
      while (task.until < end && is_wanted(task, task.until)) ++task.until;
      return true;
    }
    task.at = task.first;
    task.length = (task.length + 1) % task.lengths;
    ++task.asked;
  }
  return false;
}

kvpool_status Worker::send(Task& task) {
  Batch& batch = *task.batch;
  const bool is_data = batch.kind == BatchKind::get || (batch.kind == BatchKind::set && is_storing(task));
  kvpool_request request{};
  request.struct_size = sizeof request;
  request.user_data = static_cast<uint64_t>(&task - tasks_.data());
  request.keys = batch.ordered_keys.data() + task.at;
  request.blocks = task.until - task.at;
  kvpool_ticket ticket = 0;
  if (!is_data) {
    request.ns = lengths_[task.length].ns;
    return batch.kind == BatchKind::exists ? kvpool_match(consumer_, &request, &ticket)
                                           : kvpool_delete(consumer_, &request, &ticket);
  }
  const Length& length = *task.group->length;
  request.ns = length.ns;
  request.buffers =
      batch.addresses.data() + task.group->addresses + size_t{task.at - task.group->begin} * length.segments;
  if (batch.kind == BatchKind::get) return kvpool_retrieve(consumer_, &request, &ticket);
  for (uint32_t i = task.at; i < task.until; ++i) stored_.note(batch.ordered_keys[i], length.number);
  return kvpool_store(consumer_, &request, &ticket);
}

Worker::Next Worker::digest(Task& task) {
  switch (task.batch->kind) {
    case BatchKind::get:
      return digest_get(task);
    case BatchKind::exists:
      return digest_exists(task);
    case BatchKind::set:
      return is_storing(task) ? digest_store(task) : digest_remove(task);
    case BatchKind::remove:
      return digest_remove(task);
  }
  return Next::over;
}

Worker::Next Worker::digest_get(Task& task) {
  const bool whole = task.result.segments == task.group->length->segments;
  const uint32_t loaded = whole ? task.result.blocks : 0;
  switch (task.result.status) {
    case KVPOOL_OK:
      mark_found(task, loaded);
      task.at += loaded;
      return loaded > 0 ? Next::again : give_up(task);
    case KVPOOL_MISS:
      mark_found(task, loaded);
      task.at += loaded + 1;
      return Next::again;
    case KVPOOL_TIMED_OUT:
    case KVPOOL_CANCELLED:
      mark_found(task, loaded);
      return Next::over;
    case KVPOOL_BUSY:
      return wait(task, "the pool is busy");
    case KVPOOL_TOO_LARGE:
      return halve(task);
    default:
      return give_up(task);
  }
}

Worker::Next Worker::digest_store(Task& task) {
  mark_found(task, task.result.blocks);
  task.at += task.result.blocks;
  switch (task.result.status) {
    case KVPOOL_OK:
      return task.result.blocks > 0 ? Next::again : give_up(task);
    case KVPOOL_REJECTED:
      return task.result.blocks > 0 && task.at < task.end && task.alone
                 ? Next::again
                 : wait(task, "the pool has no room that may be evicted");
    case KVPOOL_BUSY:
      return wait(task, "the pool is busy");
    case KVPOOL_TOO_LARGE:
      return halve(task);
    case KVPOOL_IO_ERROR:
    case KVPOOL_SHORT_IO:
      // Those behind it may go elsewhere.
      (void)give_up(task);
      ++task.at;
      return Next::again;
    default:
      return give_up(task);
  }
}

Worker::Next Worker::digest_remove(Task& task) {
  if (task.result.status == KVPOOL_TOO_LARGE) return halve(task);
  if (task.result.status != KVPOOL_OK && task.result.status != KVPOOL_MISS) return give_up(task);
  task.at = task.until;
  return Next::again;
}

Worker::Next Worker::digest_exists(Task& task) {
  if (task.result.status == KVPOOL_TOO_LARGE) return halve(task);
  if (task.result.status != KVPOOL_OK && task.result.status != KVPOOL_MISS) return give_up(task);
  const uint32_t there = std::min(task.result.blocks, task.until - task.at);
  mark_found(task, there);
  if (there > 0) likely_ = task.length;
  // The one behind them is not in this namespace, if it was asked for.
  task.at = std::min(task.until, task.at + there + 1);
  return Next::again;
}

// Until another request ends; alone, it would wait for ever.
Worker::Next Worker::wait(Task& task, const char* why) {
  if (task.result.status == KVPOOL_BUSY)
    data_tasks_max_ = std::max(1U, std::min(data_tasks_max_, data_tasks_));
  const bool was_alone = task.alone && data_tasks_ == 0 && task.sent == sent_;
  if (!was_alone) return Next::later;
  task.batch->fail(why);
  return Next::over;
}

Worker::Next Worker::give_up(Task& task) {
  const auto status = static_cast<kvpool_status>(task.result.status);
  task.batch->fail(std::string("the pool refused the request: ") + kvpool_status_string(status));
  return Next::over;
}

// limits.blocks_per_request or limits.segments_per_request are below what is sent as a rule.
Worker::Next Worker::halve(Task& task) {
  task.most = (task.until - task.at) / 2;
  return task.most > 0 ? Next::again : give_up(task);
}

void Worker::mark_found(Task& task, uint32_t count) {
  Batch& batch = *task.batch;
  for (uint32_t i = task.at; i < task.at + count; ++i) {
    batch.found[batch.order.empty() ? i : batch.order[i]] = 1;
  }
}

}  // namespace kvpool::lmcache
