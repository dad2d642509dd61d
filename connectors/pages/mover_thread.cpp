// What the thread of a PageMover does.

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <unordered_set>

#include "connectors/pages/mover_work.h"

namespace kvpool::pages {
namespace {

using Clock = std::chrono::steady_clock;

// Deadlines are looked at so often while something is under way.
constexpr int look_ms = 20;

}  // namespace

void PageMover::run() {
  while (take_orders()) {
    take_completions();
    look_at_progress();
    start_units();
    end_jobs(loads_);
    end_jobs(stores_);
    sleep();
  }
  const std::lock_guard lock(mutex_);
  ended_ = true;
  changed_.notify_all();
}

// False when it is closing and nothing is under way.
bool PageMover::take_orders() {
  std::vector<std::unique_ptr<Job>> orders;
  std::vector<uint64_t> cancels;
  bool closing = false;
  {
    const std::lock_guard lock(mutex_);
    orders.swap(orders_);
    cancels.swap(cancels_);
    closing = closing_;
  }
  for (std::unique_ptr<Job>& job : orders) (job->is_load ? loads_ : stores_).push_back(std::move(job));
  for (auto* const jobs : {&loads_, &stores_}) {
    for (const std::unique_ptr<Job>& job : *jobs) {
      if (closing || std::ranges::find(cancels, job->id) != cancels.end()) {
        job->cancelled = true;
        stop(*job);
      } else if (job->is_load && job->wants_more() && Clock::now() >= job->deadline) {
        stop(*job);
      }
    }
  }
  return !closing || !loads_.empty() || !stores_.empty();
}

void PageMover::stop(Job& job) {
  if (!job.stopped) job.good = std::min(job.good, job.started);
  for (const Job::Range& range : job.again) job.good = std::min(job.good, range.first);
  job.stopped = true;
  if (!job.cancelled) return;
  job.good = 0;
  for (const std::unique_ptr<Unit>& unit : units_) {
    if (unit->job == &job && !unit->has_result) unit->cancel_wanted = true;
  }
}

void PageMover::take_completions() {
  std::array<kvpool_completion, 2 * units_max> taken;
  const uint32_t count = kvpool_poll(consumer_, taken.data(), static_cast<uint32_t>(taken.size()));
  for (uint32_t i = 0; i < count; ++i) {
    Unit& unit = *units_[taken[i].user_data];
    if (taken[i].kind == KVPOOL_RESULT) {
      finish(unit, taken[i]);
    } else {
      release(unit);
    }
  }
}

void PageMover::look_at_progress() {
  for (const std::unique_ptr<Unit>& unit : units_) {
    if (unit->job == nullptr || unit->has_result) continue;
    if (unit->cancel_wanted && kvpool_cancel(consumer_, unit->ticket) != KVPOOL_BUSY) {
      unit->cancel_wanted = false;
    }
    if (unit->job->is_load && !unit->job->cancelled) {
      scatter_to(*unit, *unit->job, kvpool_progress(consumer_, unit->ticket), unit->count);
    }
  }
}

// Loads first, a unit each in turn, but for one unit and its memory that stores can always have.
void PageMover::start_units() {
  const size_t kept = slot_count_ >= 2 * unit_blocks_ && !stores_.empty() ? unit_blocks_ : 0;
  bool started = true;
  while (started) {
    started = false;
    for (const std::unique_ptr<Job>& job : loads_) {
      if (free_units_.empty() || free_slots_.size() <= kept) break;
      if (job->wants_more()) started = start_unit(*job, kept) || started;
    }
  }
  start_stores();
}

// A block must be in the pool before one that follows it is stored: of a chain the first store alone, one
// unit after the other.
void PageMover::start_stores() {
  std::unordered_set<uint64_t> taken;
  for (const std::unique_ptr<Unit>& unit : units_) {
    if (unit->job != nullptr && !unit->job->is_load && !unit->has_result) taken.insert(unit->job->chain);
  }
  for (const std::unique_ptr<Job>& job : stores_) {
    if (free_units_.empty() || free_slots_.empty()) return;
    if (job->over() || !taken.insert(job->chain).second) continue;
    if (job->wants_more()) (void)start_unit(*job, 0);
  }
}

bool PageMover::start_unit(Job& job, size_t slots_kept) {
  const size_t units_kept = slots_kept > 0 ? 1 : 0;
  if (free_units_.size() <= units_kept || free_slots_.size() <= slots_kept) return false;
  const auto room = static_cast<uint32_t>(free_slots_.size() - slots_kept);
  Unit& unit = *units_[free_units_.back()];
  unit.job = &job;
  const Job::Range next =
      job.again.empty() ? Job::Range{job.started, job.blocks - job.started} : job.again.back();
  unit.first = next.first;
  unit.count = std::min({unit_blocks_, room, next.count});
  unit.scattered = 0;
  unit.has_result = unit.cancel_wanted = false;
  unit.slots.assign(free_slots_.end() - unit.count, free_slots_.end());
  const kvpool_status sent = send(unit);
  if (sent != KVPOOL_OK) {
    unit.job = nullptr;
    if (sent != KVPOOL_BUSY) stop(job);  // the pool is closed
    return false;
  }
  free_slots_.resize(free_slots_.size() - unit.count);
  free_units_.pop_back();
  ++job.units_out;
  if (job.again.empty()) {
    job.started += unit.count;
  } else {
    job.again.back() = {next.first + unit.count, next.count - unit.count};
    if (job.again.back().count == 0) job.again.pop_back();
  }
  return true;
}

kvpool_status PageMover::send(Unit& unit) {
  const Job& job = *unit.job;
  const auto segments = static_cast<uint32_t>(options_.layers.size());
  kvpool_request request{};
  request.struct_size = sizeof request;
  request.user_data = free_units_.back();
  request.ns = options_.ns;
  request.blocks = unit.count;
  request.buffers = unit.addresses;
  for (uint32_t block = 0; block < unit.count; ++block) {
    for (uint32_t segment = 0; segment < segments; ++segment) {
      unit.addresses[block * segments + segment] = kvpool_address(consumer_, place(unit, block, segment));
    }
  }
  if (job.is_load) {
    request.pin = job.pin;
    request.block_first = job.block_first + unit.first;
    if (job.timeout_given) {
      const auto left = std::chrono::duration_cast<std::chrono::microseconds>(job.deadline - Clock::now());
      request.timeout_us = static_cast<uint64_t>(std::max<int64_t>(left.count(), 1));
    }
    return kvpool_retrieve(consumer_, &request, &unit.ticket);
  }
  request.keys = unit.keys;
  request.has_parent = unit.first > 0 || job.has_parent ? 1 : 0;
  request.parent = unit.first > 0 ? job.keys[unit.first - 1] : job.parent;
  std::copy_n(job.keys.begin() + unit.first, unit.count, unit.keys);
  for (uint32_t block = 0; block < unit.count; ++block) {
    for (uint32_t segment = 0; segment < segments; ++segment) copy(unit, job, segment, block);
  }
  return kvpool_store(consumer_, &request, &unit.ticket);
}

std::byte* PageMover::place(const Unit& unit, uint32_t block, uint32_t segment) const {
  return slots_ + unit.slots[block] * slot_bytes_ + segment_offset_[segment];
}

void PageMover::copy(const Unit& unit, const Job& job, uint32_t segment, uint32_t block) const {
  const size_t first = size_t{unit.first + block} * block_pages_ + first_page_[segment];
  const std::span pages(&job.pages[first], page_count_[segment]);
  if (job.is_load) {
    scatter(options_.layers[segment], pages, place(unit, block, segment));
  } else {
    gather(options_.layers[segment], pages, place(unit, block, segment));
  }
}

void PageMover::scatter_to(Unit& unit, const Job& job, uint32_t segments, uint32_t blocks) {
  for (; unit.scattered < segments; ++unit.scattered) {
    for (uint32_t block = 0; block < blocks; ++block) copy(unit, job, unit.scattered, block);
  }
}

void PageMover::finish(Unit& unit, const kvpool_completion& result) {
  Job& job = *unit.job;
  const auto segments = static_cast<uint32_t>(options_.layers.size());
  unit.has_result = true;
  unit.job = nullptr;
  --job.units_out;
  if (result.status == KVPOOL_BUSY && job.is_load && !job.stopped) {
    job.again.push_back({unit.first, unit.count});
    return;
  }
  const bool whole = !job.is_load || result.segments == segments;
  const uint32_t good = whole ? std::min(result.blocks, unit.count) : 0;
  if (job.is_load && !job.cancelled) scatter_to(unit, job, good > 0 ? segments : 0, good);
  {
    const std::lock_guard lock(mutex_);
    (job.is_load ? stats_.loaded_blocks : stats_.stored_blocks) += good;
    (job.is_load ? stats_.loaded_bytes : stats_.stored_bytes) += good * block_bytes_;
  }
  if (good == unit.count) return;
  job.good = std::min(job.good, unit.first + good);
  job.stopped = true;
}

void PageMover::release(Unit& unit) {
  free_slots_.insert(free_slots_.end(), unit.slots.begin(), unit.slots.end());

  const auto number = std::ranges::find_if(units_, [&](const auto& other) { return other.get() == &unit; });
  free_units_.push_back(static_cast<uint32_t>(number - units_.begin()));
}

void PageMover::end_jobs(std::deque<std::unique_ptr<Job>>& jobs) {
  for (const std::unique_ptr<Job>& job : jobs) {
    if (job->is_load || job->gathered || job->wants_more()) continue;
    job->gathered = true;
    tell_gathered(*job);
  }
  std::erase_if(jobs, [this](const std::unique_ptr<Job>& job) {
    if (!job->over()) return false;
    end(*job);
    return true;
  });
}

void PageMover::end(const Job& job) {
  const bool all = job.good == job.blocks;
  {
    const std::lock_guard lock(mutex_);
    if (!all) ++(job.is_load ? stats_.failed_loads : stats_.failed_stores);
  }
  tell({.id = job.id,
        .kind = job.is_load ? EventKind::loaded : EventKind::stored,
        .blocks = job.is_load && options_.windows && !all ? 0 : job.good});
}

void PageMover::tell(const Event& event) {
  const std::lock_guard lock(mutex_);
  events_.push_back(event);
  under_way_.erase(event.id);
  changed_.notify_all();
}

void PageMover::tell_gathered(const Job& job) {
  const std::lock_guard lock(mutex_);
  events_.push_back({.id = job.id, .kind = EventKind::gathered, .blocks = job.started});
  gathering_.erase(job.id);
  for (const int32_t page : job.pages) --readers_[static_cast<size_t>(page)];
  changed_.notify_all();
}

void PageMover::sleep() {
  if (kvpool_arm(consumer_) == 0) return;
  std::array<pollfd, 2> descriptors = {{{.fd = wake_fd_, .events = POLLIN, .revents = 0},
                                        {.fd = kvpool_event_fd(consumer_), .events = POLLIN, .revents = 0}}};
  const bool idle = loads_.empty() && stores_.empty();
  if (idle && is_closing()) return;
  ::poll(descriptors.data(), descriptors.size(), idle ? -1 : look_ms);
  uint64_t ignored = 0;
  [[maybe_unused]] const ssize_t taken = read(wake_fd_, &ignored, sizeof ignored);
}

}  // namespace kvpool::pages
