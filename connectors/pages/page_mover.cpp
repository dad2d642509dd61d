#include "connectors/pages/page_mover.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <system_error>
#include <unordered_set>
#include <utility>

#include "connectors/pages/mover_work.h"

namespace kvpool::pages {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t alignment_bytes = 4096;  // of what devices read and write directly
constexpr size_t events_max = 2 * PageMover::jobs_max;

constexpr uint64_t round_up(uint64_t bytes) {
  return (bytes + alignment_bytes - 1) / alignment_bytes * alignment_bytes;
}

// Keys, addresses, places and checks of a unit's blocks.
constexpr uint64_t unit_array_bytes(uint64_t layers) {
  return unit_blocks_most *
         (sizeof(kvpool_key) + layers * (sizeof(uint64_t) + sizeof(const void*) + sizeof(kvpool_check)));
}

Clock::time_point after(uint64_t timeout_us) {
  constexpr uint64_t longest_us = 1ULL << 50;
  return Clock::now() + std::chrono::microseconds(std::min(timeout_us, longest_us));
}

kvpool_status refuse(kvpool_status status, kvpool_error* error, const std::string& why) {
  if (error != nullptr) std::snprintf(error->message, sizeof error->message, "%s", why.c_str());
  return status;
}

void signal(int fd) {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(fd, &one, sizeof one);  // full means signalled
}

}  // namespace

std::shared_ptr<PageMover> PageMover::open(MoverOptions options, kvpool_status* status, kvpool_error* error) {
  std::shared_ptr<PageMover> mover(new PageMover(std::move(options)), [](PageMover* last) {
    constexpr uint64_t most_us = 10'000'000;
    // What a device may still write to must stay.
    if (last->close(most_us, nullptr) == KVPOOL_OK) delete last;
  });
  *status = mover->prepare(error);
  if (*status != KVPOOL_OK) return nullptr;
  mover->thread_ = std::thread([raw = mover.get()] { raw->run(); });
  return mover;
}

PageMover::PageMover(MoverOptions options) : options_(std::move(options)) {}

PageMover::~PageMover() {
  if (wake_fd_ >= 0) ::close(wake_fd_);
}

kvpool_status PageMover::prepare(kvpool_error* error) {
  const auto layers = static_cast<uint32_t>(options_.layers.size());
  if (layers == 0) return refuse(KVPOOL_INVALID_ARGUMENT, error, "the engine has no layers with pages");
  block_pages_ = options_.pages.count();
  segment_offset_ = {0};
  for (const Layer& layer : options_.layers) {
    if (layer.group >= options_.pages.of_group.size() || layer.base == nullptr || layer.page_bytes() == 0) {
      return refuse(KVPOOL_INVALID_ARGUMENT, error,
                    "a layer has no pages, or is of a group that is not there");
    }
    readers_.resize(std::max<size_t>(readers_.size(), layer.pages));
    first_page_.push_back(options_.pages.first_of(layer.group));
    page_count_.push_back(options_.pages.of_group[layer.group]);
    segment_offset_.push_back(segment_offset_.back() + round_up(page_count_.back() * layer.page_bytes()));
  }
  slot_bytes_ = segment_offset_.back();
  if (options_.copier == nullptr) options_.copier = cpu_copier();
  const kvpool_status prepared = options_.copier->open(options_.pool, options_.layers, options_.pages, error);
  if (prepared != KVPOOL_OK) return prepared;
  knows_events_ = options_.copier->knows_events();
  const uint64_t array_bytes = round_up(units_max * unit_array_bytes(layers));
  kvpool_consumer_options wanted{};
  wanted.struct_size = sizeof wanted;
  wanted.name = "pages";
  wanted.region_bytes = options_.staging_bytes == 0 ? UINT64_MAX : options_.staging_bytes;
  const kvpool_status opened = kvpool_consumer_open(options_.pool, &wanted, &consumer_, error);
  if (opened != KVPOOL_OK) return opened;
  wake_fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake_fd_ < 0) return refuse(KVPOOL_SYSTEM, error, "eventfd: " + std::generic_category().message(errno));

  uint64_t bytes = 0;
  auto* const region = static_cast<std::byte*>(kvpool_region(consumer_, &bytes));
  if (bytes < array_bytes + slot_bytes_) {
    return refuse(KVPOOL_TOO_LARGE, error,
                  "staging memory of " + std::to_string(bytes) +
                      " bytes has no room for one block: it takes " +
                      std::to_string(array_bytes + slot_bytes_) + "; set pool.buffers larger");
  }
  slots_ = region + array_bytes;
  slot_count_ = static_cast<uint32_t>(std::min<uint64_t>((bytes - array_bytes) / slot_bytes_, 1 << 20));
  unit_blocks_ = std::clamp(slot_count_ / 4, 1U, unit_blocks_most);
  make_units(region);
  return KVPOOL_OK;
}

void PageMover::make_units(std::byte* region) {
  for (uint32_t slot = slot_count_; slot > 0; --slot) free_slots_.push_back(slot - 1);
  parts_.reserve(uint64_t{unit_blocks_most} * segments());
  for (uint32_t i = 0; i < units_max; ++i) {
    std::byte* const arrays = region + i * unit_array_bytes(segments());
    units_.push_back(std::make_unique<Unit>());
    Unit& unit = *units_.back();
    unit.index = i;
    unit.keys = reinterpret_cast<kvpool_key*>(arrays);
    unit.addresses = reinterpret_cast<uint64_t*>(arrays + unit_blocks_most * sizeof(kvpool_key));
    unit.places = reinterpret_cast<const void**>(unit.addresses + uint64_t{unit_blocks_most} * segments());
    unit.checks = reinterpret_cast<kvpool_check*>(unit.places + uint64_t{unit_blocks_most} * segments());
    unit.slots.reserve(unit_blocks_most);
    free_units_.push_back(i);
  }
}

kvpool_status PageMover::check(const std::vector<int32_t>& pages, size_t blocks, uint64_t after) const {
  if (blocks == 0 || pages.size() != blocks * block_pages_) return KVPOOL_INVALID_ARGUMENT;
  if (after != 0 && !knows_events_) return KVPOOL_INVALID_ARGUMENT;
  const auto all = static_cast<int64_t>(readers_.size());  // of groups that no layer is in, too
  if (std::ranges::any_of(pages, [&](int32_t page) { return page >= all; })) return KVPOOL_INVALID_ARGUMENT;
  for (size_t layer = 0; layer < options_.layers.size(); ++layer) {
    const auto most = static_cast<int64_t>(options_.layers[layer].pages);
    for (size_t block = 0; block < blocks; ++block) {
      const int32_t* const first = &pages[block * block_pages_ + first_page_[layer]];
      if (std::any_of(first, first + page_count_[layer], [&](int32_t page) { return page >= most; })) {
        return KVPOOL_INVALID_ARGUMENT;
      }
    }
  }
  return KVPOOL_OK;
}

bool PageMover::are_all_layers(const std::vector<LoadPart>& parts) const {
  uint32_t end = 0;
  for (const LoadPart& part : parts) {
    if (part.layers_end <= end || part.event == 0) return false;
    end = part.layers_end;
  }
  return end == segments();
}

kvpool_status PageMover::store(StoreJob job) {
  if (const kvpool_status bad = check(job.pages, job.keys.size(), job.after); bad != KVPOOL_OK) return bad;
  if (std::ranges::any_of(job.pages, [](int32_t page) { return page < 0; })) return KVPOOL_INVALID_ARGUMENT;
  auto made = std::make_unique<Job>();
  made->id = job.id;
  made->chain = job.chain;
  made->blocks = made->good = static_cast<uint32_t>(job.keys.size());
  made->keys = std::move(job.keys);
  made->has_parent = job.has_parent;
  made->parent = job.parent;
  made->pages = std::move(job.pages);
  made->after = job.after;
  made->parts = {{.layers_end = segments()}};
  return enqueue(std::move(made));
}

kvpool_status PageMover::load(LoadJob job) {
  const uint64_t event = job.parts.empty() ? job.after : job.parts.front().event;
  if (const kvpool_status bad = check(job.pages, job.blocks, event); bad != KVPOOL_OK) return bad;
  if (job.pin == 0) return KVPOOL_INVALID_ARGUMENT;
  if (job.parts.empty()) {
    job.parts = {{.layers_end = segments()}};
  } else if (!are_all_layers(job.parts)) {
    return KVPOOL_INVALID_ARGUMENT;
  }
  auto made = std::make_unique<Job>();
  made->is_load = true;
  made->id = job.id;
  made->blocks = made->good = job.blocks;
  made->pin = job.pin;
  made->block_first = job.block_first;
  made->pages = std::move(job.pages);
  made->after = job.after;
  made->parts = std::move(job.parts);
  made->timeout_given = job.timeout_us > 0;
  made->deadline = after(made->timeout_given ? job.timeout_us : wait_us_max);
  return enqueue(std::move(made));
}

kvpool_status PageMover::enqueue(std::unique_ptr<Job> job) {
  {
    const std::lock_guard lock(mutex_);
    if (closing_) return KVPOOL_CLOSED;
    if (under_way_.contains(job->id)) return KVPOOL_INVALID_ARGUMENT;
    if (under_way_.size() >= jobs_max || events_.size() + 2 * under_way_.size() + 2 > events_max) {
      return KVPOOL_BUSY;
    }
    under_way_[job->id] = job->is_load;
    if (!job->is_load) {
      gathering_[job->id] = job.get();
      for (const int32_t page : job->pages) ++readers_[static_cast<size_t>(page)];
    }
    orders_.push_back(std::move(job));
  }
  signal(wake_fd_);
  return KVPOOL_OK;
}

void PageMover::cancel(uint64_t id) {
  {
    const std::lock_guard lock(mutex_);
    if (!under_way_.contains(id)) return;
    wishes_.emplace_back(id, Wish::cancel);
  }
  signal(wake_fd_);
}

std::vector<Event> PageMover::take_events() {
  const std::lock_guard lock(mutex_);
  std::vector<Event> taken(events_.begin(), events_.end());
  events_.clear();
  return taken;
}

bool PageMover::wait_gathered(uint64_t id, uint64_t timeout_us) {
  std::unique_lock lock(mutex_);
  return changed_.wait_until(lock, after(timeout_us), [&] { return !gathering_.contains(id); });
}

bool PageMover::wait_unread(std::span<const int32_t> pages, uint64_t timeout_us) {
  const auto until = after(timeout_us);
  const auto copied_by = std::min(until, after(patience_us));
  std::unique_lock lock(mutex_);
  const auto is_read = [&](int32_t page) {
    return page >= 0 && static_cast<size_t>(page) < readers_.size() &&
           readers_[static_cast<size_t>(page)] > 0;
  };
  const auto unread = [&] { return gathering_.empty() || std::ranges::none_of(pages, is_read); };
  if (unread()) return true;
  const std::unordered_set<int32_t> wanted(pages.begin(), pages.end());
  const auto find_reading = [&] {
    std::vector<uint64_t> found;
    for (const auto& [id, job] : gathering_) {
      const auto is_wanted = [&](int32_t page) { return wanted.contains(page); };
      if (std::ranges::any_of(job->pages, is_wanted)) found.push_back(id);
    }
    return found;
  };
  const std::vector<uint64_t> reading = find_reading();
  for (const uint64_t id : reading) {
    wishes_.emplace_back(id, Wish::hurry);
    gathering_[id]->stalled = false;  // until the thread has done what it can
  }
  signal(wake_fd_);
  const auto stalled = [&] {
    return std::ranges::all_of(reading, [&](uint64_t id) {
      const auto job = gathering_.find(id);
      return job == gathering_.end() || job->second->stalled;
    });
  };
  for (bool is_worth_it = true; is_worth_it && !unread();) {
    const bool by_devices = stalled();
    const auto began = Clock::now();
    const auto limit = by_devices ? std::min(until, began + device_patience_.left(began)) : copied_by;
    is_worth_it = changed_.wait_until(lock, limit, [&] { return unread() || stalled() != by_devices; });
    if (by_devices) device_patience_.spend(Clock::now() - began);
  }
  if (unread()) return true;
  if (Clock::now() >= until) return false;
  // A cache may forget; who waits for the pages may not.
  for (const uint64_t id : find_reading()) wishes_.emplace_back(id, Wish::cut);
  signal(wake_fd_);
  return changed_.wait_until(lock, until, unread);
}

bool PageMover::cancel_stores(uint64_t timeout_us) {
  std::unique_lock lock(mutex_);
  const auto is_store = [](const auto& job) { return !job.second; };
  for (const auto& job : under_way_) {
    if (is_store(job)) wishes_.emplace_back(job.first, Wish::cancel);
  }
  signal(wake_fd_);
  return changed_.wait_until(lock, after(timeout_us),
                             [&] { return std::ranges::none_of(under_way_, is_store); });
}

bool PageMover::wait_ended(uint64_t id, uint64_t timeout_us) {
  std::unique_lock lock(mutex_);
  return changed_.wait_until(lock, after(timeout_us), [&] { return !under_way_.contains(id); });
}

MoverStats PageMover::stats() const {
  const std::lock_guard lock(mutex_);
  return stats_;
}

size_t PageMover::jobs_under_way() const {
  const std::lock_guard lock(mutex_);
  return under_way_.size();
}

kvpool_status PageMover::close(uint64_t timeout_us, kvpool_error* error) {
  const std::lock_guard one_at_a_time(closing_mutex_);
  const auto until = after(timeout_us);
  if (thread_.joinable()) {
    std::unique_lock lock(mutex_);
    closing_ = true;
    signal(wake_fd_);
    if (!changed_.wait_until(lock, until, [&] { return ended_; })) {
      return refuse(KVPOOL_TIMED_OUT, error, "a device still holds memory of pages that are being moved");
    }
    lock.unlock();
    thread_.join();
  }
  options_.copier.reset();
  if (consumer_ == nullptr) return KVPOOL_OK;
  const auto left = std::chrono::duration_cast<std::chrono::microseconds>(until - Clock::now()).count();
  const kvpool_status closed =
      kvpool_consumer_close(consumer_, static_cast<uint64_t>(std::max<int64_t>(left, 0)), error);
  if (closed == KVPOOL_OK) consumer_ = nullptr;
  return closed;
}

}  // namespace kvpool::pages
