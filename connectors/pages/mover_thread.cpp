// What the thread of a PageMover does.

#include <poll.h>
#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <ranges>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "connectors/pages/mover_work.h"

namespace kvpool::pages {
namespace {

using Clock = std::chrono::steady_clock;

// Deadlines are looked at so often while something is under way.
constexpr int look_ms = 20;
// Nobody tells when a pool that was busy with others' requests has room again.
constexpr int refused_ms = 1;

}  // namespace

void PageMover::run() {
  pthread_setname_np(pthread_self(), "kvpool-pages");
  while (take_orders()) {
    take_completions();
    look_at_progress();
    bool moved = take_copies();
    settle_units();
    start_units();
    moved = hand_over() || moved;
    moved = take_copies() || moved;  // the CPU's have ended already
    settle_units();
    moved = send_stores() || moved;
    end_jobs(loads_);
    end_jobs(stores_);
    note_stalled();
    if (!moved) sleep();
  }
  const std::lock_guard lock(mutex_);
  ended_ = true;
  changed_.notify_all();
}

// False when it is closing and nothing is under way.
bool PageMover::take_orders() {
  std::vector<std::unique_ptr<Job>> orders;
  std::vector<std::pair<uint64_t, Wish>> wishes;
  bool closing = false;
  {
    const std::lock_guard lock(mutex_);
    orders.swap(orders_);
    wishes.swap(wishes_);
    closing = closing_;
  }
  for (std::unique_ptr<Job>& job : orders) (job->is_load ? loads_ : stores_).push_back(std::move(job));
  std::unordered_multimap<uint64_t, Wish> wished(wishes.begin(), wishes.end());
  for (auto* const jobs : {&loads_, &stores_}) {
    for (const std::unique_ptr<Job>& job : *jobs) {
      bool ends = job->is_load && job->wants_more() && Clock::now() >= job->deadline;
      bool cancelled = closing;
      for (auto [wish, last] = wished.equal_range(job->id); wish != last; ++wish) {
        job->hurried = job->hurried || wish->second == Wish::hurry;
        cancelled = cancelled || wish->second == Wish::cancel;
        ends = ends || wish->second == Wish::cut;
      }
      job->cancelled = job->cancelled || cancelled;
      if (cancelled || ends) stop(*job);
    }
  }
  if (!wishes.empty()) hurry_chains();
  return !closing || !loads_.empty() || !stores_.empty();
}

// What is before a hurried store in its chain.
void PageMover::hurry_chains() {
  std::unordered_set<uint64_t> chains;
  for (const std::unique_ptr<Job>& job : stores_ | std::views::reverse) {
    if (job->hurried) chains.insert(job->chain);
    job->hurried = chains.contains(job->chain);
  }
}

// No more units are started. None of what has no unit now will be complete.
void PageMover::stop(Job& job) {
  if (!job.stopped && !job.all_started()) job.good = job.is_last_part() ? job.started : 0;
  for (const Job::Range& range : job.again) job.good = std::min(job.good, range.first);
  job.stopped = true;
  if (!job.cancelled) return;
  job.good = 0;
  for (const std::unique_ptr<Unit>& unit : units_) {
    if (unit->job != &job) continue;
    unit->drop_copies();
    unit->cancel_wanted = !unit->has_result;
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
      unit.released = true;
    }
  }
}

void PageMover::finish(Unit& unit, const kvpool_completion& result) {
  Job& job = *unit.job;
  unit.has_result = true;
  if (unit.is_wrong) return;
  const bool too_large = result.status == KVPOOL_TOO_LARGE && unit.count > 1;
  if (too_large) unit_segments_most_ = std::min(unit_segments_most_, unit.count / 2 * unit.layers);
  if ((result.status == KVPOOL_BUSY || too_large) && job.is_load && !job.stopped) {
    unit.drop_copies();
    job.put_back({unit.part, unit.first, unit.count, unit.is_suspect});
    if (!too_large) refused_until_ = Clock::now() + std::chrono::milliseconds(refused_ms);
    if (Clock::now() >= job.deadline) stop(job);
    return;
  }
  const bool whole = !job.is_load || result.segments == unit.layers;
  unit.good = whole ? std::min(result.blocks, unit.count) : 0;
  if (job.is_load) unit.set_ready(unit.layers, job.cancelled || unit.copy_failed ? 0 : unit.good);
  if (unit.good == unit.count) return;
  job.shrink(unit.first + unit.good);
  // The other parts of the blocks before a bad one may come yet.
  if (!(job.is_load && result.status == KVPOOL_MISS && !options_.windows)) stop(job);
}

void PageMover::look_at_progress() {
  for (const std::unique_ptr<Unit>& unit : units_) {
    if (unit->job == nullptr || unit->has_result || unit->ticket == 0) continue;
    if (unit->cancel_wanted && kvpool_cancel(consumer_, unit->ticket) != KVPOOL_BUSY) {
      unit->cancel_wanted = false;
    }
    if (unit->job->is_load && !unit->job->cancelled && !unit->copy_failed && !unit->is_wrong) {
      unit->set_ready(kvpool_progress(consumer_, unit->ticket), unit->count);
    }
  }
}

// Loads first, a unit each in turn, but for one unit and its memory that stores can always have.
void PageMover::start_units() {
  const size_t kept = slot_count_ >= 2 * unit_blocks_ && !stores_.empty() ? unit_blocks_ : 0;
  const bool may_try_again = Clock::now() >= refused_until_;
  bool started = true;
  while (started) {
    started = false;
    for (const std::unique_ptr<Job>& job : loads_) {
      if (free_units_.empty() || free_slots_.size() <= kept) break;
      if (job->wants_more() && (job->again.empty() || may_try_again))
        started = start_unit(*job, kept) || started;
    }
  }
  start_stores();
}

// Of a chain two units at most: one is gathered while the one before it is stored; more of one whose pages
// somebody waits for. All that as long as it leaves loads room.
void PageMover::start_stores() {
  std::unordered_map<uint64_t, uint32_t> under_way;
  for (const std::unique_ptr<Unit>& unit : units_) {
    if (unit->job != nullptr && !unit->job->is_load && !unit->has_result) ++under_way[unit->job->chain];
  }
  const auto most = [this](const Job& job) {
    const bool has_room = free_units_.size() > units_max / 2 && free_slots_.size() > slot_count_ / 2;
    return !has_room ? 1 : job.hurried ? units_max : 2;
  };
  for (const std::unique_ptr<Job>& job : stores_) {
    if (free_units_.empty() || free_slots_.empty()) return;
    uint32_t& its = under_way[job->chain];
    while (job->wants_more() && its < most(*job) && start_unit(*job, 0)) ++its;
    if (job->wants_more()) its = units_max;  // a later one of the chain waits for it
  }
}

bool PageMover::start_unit(Job& job, size_t slots_kept) {
  const size_t units_kept = slots_kept > 0 ? 1 : 0;
  if (free_units_.size() <= units_kept || free_slots_.size() <= slots_kept) return false;
  const auto room = static_cast<uint32_t>(free_slots_.size() - slots_kept);
  Unit& unit = *units_[free_units_.back()];
  const Job::Range next = job.next();
  unit.job = &job;
  unit.number = units_started_;
  unit.part = next.part;
  unit.layer_first = job.layer_first(next.part);
  const uint32_t layers_end = job.parts[next.part].layers_end;
  unit.layers = layers_end - unit.layer_first;
  unit.block_stride_bytes = segment_offset_[layers_end] - segment_offset_[unit.layer_first];
  // No more than its arrays are for.
  unit.blocks_of_slot =
      std::min(static_cast<uint32_t>(slot_bytes_ / unit.block_stride_bytes), segments() / unit.layers);
  unit.first = next.first;
  const uint32_t taken = std::max(1U, unit_segments_most_ / unit.layers);  // by the pool, as far as is known
  unit.count = std::min({std::min(unit_blocks_, room) * unit.blocks_of_slot, taken, next.count});
  const uint32_t slots = (unit.count + unit.blocks_of_slot - 1) / unit.blocks_of_slot;
  unit.slots.assign(free_slots_.end() - slots, free_slots_.end());
  unit.ticket = 0;
  unit.has_result = unit.released = unit.cancel_wanted = unit.gathered = false;
  unit.copy_failed = unit.is_wrong = unit.is_checked = false;
  unit.is_suspect = next.is_suspect;
  unit.good = unit.ready_segments = unit.next_segment = unit.next_block = 0;
  const kvpool_status sent = job.is_load ? send_load(unit) : KVPOOL_OK;
  if (sent != KVPOOL_OK) {
    unit.job = nullptr;
    unit.slots.clear();
    if (sent != KVPOOL_BUSY) stop(job);  // the pool is closed
    return false;
  }
  if (!job.is_load) {
    unit.set_ready(segments(), unit.count);
    ++job.gathering;
  }
  free_slots_.resize(free_slots_.size() - slots);
  free_units_.pop_back();
  ++units_started_;
  ++job.units_out;
  job.take(next, unit.count);
  return true;
}

kvpool_request PageMover::request_for(const Unit& unit) const {
  kvpool_request request{};
  request.struct_size = sizeof request;
  request.user_data = unit.index;
  request.ns = options_.ns;
  request.blocks = unit.count;
  request.buffers = unit.addresses;
  for (uint32_t block = 0; block < unit.count; ++block) {
    for (uint32_t segment = 0; segment < unit.layers; ++segment) {
      unit.addresses[block * unit.layers + segment] = kvpool_address(consumer_, slot(unit, block, segment));
    }
  }
  return request;
}

kvpool_status PageMover::send_load(Unit& unit) {
  const Job& job = *unit.job;
  kvpool_request request = request_for(unit);
  request.flags = KVPOOL_IN_PLACE;
  request.places = unit.places;
  request.segment_first = unit.layer_first;
  request.segment_count = unit.layers;
  if (can_check(unit)) {
    request.checks = unit.checks;
    if (!unit.is_suspect) request.flags |= KVPOOL_UNSUMMED;
  }
  // Of windows that are not loaded nobody writes a place.
  std::fill_n(unit.places, uint64_t{unit.count} * unit.layers, nullptr);
  std::fill_n(unit.checks, uint64_t{unit.count} * unit.layers, kvpool_check{});
  request.pin = job.pin;
  request.block_first = job.block_first + unit.first;
  if (job.timeout_given) {
    const auto left = std::chrono::duration_cast<std::chrono::microseconds>(job.deadline - Clock::now());
    request.timeout_us = static_cast<uint64_t>(std::max<int64_t>(left.count(), 1));
  }
  return kvpool_retrieve(consumer_, &request, &unit.ticket);
}

// Whether the copier can sum its segments: of one that is not wanted whole not all bytes are copied.
bool PageMover::can_check(const Unit& unit) const {
  for (uint32_t layer = unit.layer_first; layer < unit.layer_first + unit.layers; ++layer) {
    if (!options_.copier->can_check(layer)) return false;
    for (uint32_t block = 0; block < unit.count; ++block) {
      const int32_t* const first = &unit.job->pages[first_page_of(unit, block, layer)];
      const auto wanted =
          std::count_if(first, first + page_count_[layer], [](int32_t page) { return page >= 0; });
      if (wanted != 0 && wanted != page_count_[layer]) return false;
    }
  }
  return true;
}

bool PageMover::send_stores() {
  bool moved = false;
  for (const std::unique_ptr<Unit>& unit : units_) {
    if (unit->job == nullptr || unit->job->is_load || !unit->gathered) continue;
    if (unit->ticket != 0 || unit->has_result) continue;
    moved = send_store(*unit) || moved;
  }
  return moved;
}

// Stores what was gathered, or lets it go where the blocks before it are not stored. False: it waits.
bool PageMover::send_store(Unit& unit) {
  Job& job = *unit.job;
  bool wanted = !job.cancelled && !unit.copy_failed && (!job.stopped || unit.first < job.good);
  if (wanted) {
    if (is_behind_another(unit)) return false;
    kvpool_request request = request_for(unit);
    request.keys = unit.keys;
    request.has_parent = unit.first > 0 || job.has_parent ? 1 : 0;
    request.parent = unit.first > 0 ? job.keys[unit.first - 1] : job.parent;
    std::copy_n(job.keys.begin() + unit.first, unit.count, unit.keys);
    const kvpool_status sent = kvpool_store(consumer_, &request, &unit.ticket);
    if (sent == KVPOOL_BUSY) return false;
    wanted = sent == KVPOOL_OK;
  }
  if (wanted) return true;
  job.good = std::min(job.good, unit.first);
  stop(job);
  unit.has_result = unit.released = true;
  settle(unit);
  return true;
}

// A block must be in the pool before one that follows it is stored.
bool PageMover::is_behind_another(const Unit& unit) const {
  return std::ranges::any_of(units_, [&](const std::unique_ptr<Unit>& other) {
    return other->job != nullptr && !other->job->is_load && !other->has_result &&
           other->job->chain == unit.job->chain && other->number < unit.number;
  });
}

uint32_t PageMover::first_page_of(const Unit& unit, uint32_t block, uint32_t layer) const {
  return (unit.first + block) * block_pages_ + first_page_[layer];
}

std::byte* PageMover::slot(const Unit& unit, uint32_t block, uint32_t segment) const {
  const uint64_t in_block = segment_offset_[unit.layer_first + segment] - segment_offset_[unit.layer_first];
  return slots_ + unit.slots[block / unit.blocks_of_slot] * slot_bytes_ +
         block % unit.blocks_of_slot * unit.block_stride_bytes + in_block;
}

// A part that was handed over, and checked where the copier does that, can be waited for; when all were,
// nothing can keep the load from coming but the copier's own failure.
void PageMover::order(Job& job) {
  if (job.parts.back().event == 0 || job.ordered || job.stopped || job.good < job.blocks) return;
  if (job.over()) return;  // nobody needs to wait
  while (job.recorded < job.parts.size() && is_handed_over(job, job.recorded)) {
    if (!options_.copier->record(job.parts[job.recorded].event)) {
      job.ordered = true;
      return;
    }
    ++job.recorded;
  }
  if (job.recorded < job.parts.size()) return;
  job.ordered = true;
  const std::lock_guard lock(mutex_);
  events_.push_back({.id = job.id, .kind = EventKind::ordered, .blocks = job.blocks});
}

bool PageMover::is_handed_over(const Job& job, uint32_t part) const {
  if (job.part < part || (job.part == part && job.started < job.blocks)) return false;
  if (std::ranges::any_of(job.again, [&](const Job::Range& range) { return range.part == part; }))
    return false;
  return std::ranges::none_of(units_, [&](const std::unique_ptr<Unit>& unit) {
    return unit->job == &job && unit->part == part &&
           !(unit->has_result && (unit->is_checked ? unit->copied() : unit->handed_over()));
  });
}

void PageMover::end_jobs(std::deque<std::unique_ptr<Job>>& jobs) {
  for (const std::unique_ptr<Job>& job : jobs) {
    order(*job);
    if (job->is_load || job->gathered || job->wants_more() || job->gathering > 0) continue;
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

// A store that has no memory waits for devices if they have some of stores', or nobody else has any; and not
// while one before it in its chain is read.
void PageMover::note_stalled() {
  if (stores_.empty()) return;
  const auto is_with_device = [](const std::unique_ptr<Unit>& unit) {
    return unit->job != nullptr && !unit->job->is_load && unit->gathered;
  };
  const auto is_being_copied = [](const std::unique_ptr<Unit>& unit) { return unit->copies_out > 0; };
  const bool by_devices =
      std::ranges::any_of(units_, is_with_device) || std::ranges::none_of(units_, is_being_copied);
  std::unordered_set<uint64_t> read_chains;
  bool changed = false;
  const std::lock_guard lock(mutex_);
  for (const std::unique_ptr<Job>& job : stores_) {
    if (job->gathering > 0) read_chains.insert(job->chain);
    // A wish may be to hurry.
    const bool stalled =
        by_devices && job->wants_more() && wishes_.empty() && !read_chains.contains(job->chain);
    changed = changed || job->stalled != stalled;
    job->stalled = stalled;
  }
  if (changed) changed_.notify_all();
}

void PageMover::sleep() {
  PageCopier& copier = *options_.copier;
  const bool idle = loads_.empty() && stores_.empty();
  if (idle && is_closing()) return;
  copier.prepare_wait();
  if (!take_copies() && kvpool_arm(consumer_) != 0) {
    std::array<pollfd, 3> descriptors = {{{.fd = wake_fd_, .events = POLLIN, .revents = 0},
                                          {.fd = kvpool_event_fd(consumer_), .events = POLLIN, .revents = 0},
                                          {.fd = copier.wait_fd(), .events = POLLIN, .revents = 0}}};
    const bool refused = std::ranges::any_of(
        loads_, [](const std::unique_ptr<Job>& job) { return job->wants_more() && !job->again.empty(); });
    ::poll(descriptors.data(), descriptors.size(), idle ? -1 : refused ? refused_ms : look_ms);
    uint64_t ignored = 0;
    [[maybe_unused]] const ssize_t taken = read(wake_fd_, &ignored, sizeof ignored);
  }
  copier.done_wait();
}

}  // namespace kvpool::pages
