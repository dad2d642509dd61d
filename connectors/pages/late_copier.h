// LateCopier: a PageCopier for tests that copies as a GPU does: on another thread, later, one batch of a way
// after the other, the two ways in no order. Bytes move only as a batch ends, so that whoever reuses a page
// or a slot too early is found out.
//
// Thread: PageCopier's, and one of its own that copies; Late is used by the test's threads too.
// Failure: what Late says.

#pragma once

#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "base/checksum.h"
#include "base/prng.h"
#include "connectors/pages/page_copier.h"

namespace kvpool::pages {

// What a test tells the copier, and sees of it.
struct Late {
  static constexpr size_t to_pages = 0;
  static constexpr size_t to_segments = 1;
  struct Recorded {
    uint64_t event = 0;
    std::map<uint32_t, uint64_t> loaded;  // before it
  };

  std::atomic<uint64_t> poll_us = 0;  // poll() takes so long
  std::mutex mutex;
  std::condition_variable changed;
  // Guarded by the mutex.
  std::array<bool, 2> held{};         // nothing of that way ends
  std::set<uint64_t> events;          // that have come
  int64_t good_left = INT64_MAX;      // batches that end well; behind them the copier is broken
  uint64_t parts_to_spoil = 0;        // those with a check, in the pages
  uint64_t checked = 0;               // parts
  uint64_t wrong = 0;                 // batches
  size_t parts_max = SIZE_MAX;        // of a batch
  size_t batches_max = 3;             // under way, each way
  std::array<uint64_t, 2> waiting{};  // batches
  std::array<uint64_t, 2> ended{};
  std::map<uint32_t, uint64_t> loaded;                 // layer -> segments that were handed over
  std::vector<Recorded> recorded;                      // in their order
  std::array<std::set<const std::byte*>, 2> segments;  // that were named

  void hold(size_t way, bool wanted) {
    const std::lock_guard lock(mutex);
    held[way] = wanted;
    changed.notify_all();
  }
  void come(uint64_t event) {
    const std::lock_guard lock(mutex);
    events.insert(event);
    changed.notify_all();
  }
  void break_after(int64_t batches) {
    const std::lock_guard lock(mutex);
    good_left = batches;
  }
  // Until so many batches of that way are with the copier.
  [[nodiscard]] bool wait_waiting(size_t way, uint64_t batches) {
    std::unique_lock lock(mutex);
    return changed.wait_for(lock, std::chrono::minutes(1), [&] { return waiting[way] >= batches; });
  }
};

class LateCopier final : public PageCopier {
 public:
  LateCopier(std::shared_ptr<Late> late, uint64_t seed) : late_(std::move(late)), random_(seed) {}
  ~LateCopier() override {
    {
      const std::lock_guard lock(late_->mutex);
      closing_ = true;
      late_->changed.notify_all();
    }
    if (thread_.joinable()) thread_.join();
    ::close(fd_);
  }

  [[nodiscard]] kvpool_status open(kvpool_pool* /*pool*/, std::span<const Layer> layers,
                                   const BlockPages& /*pages*/, kvpool_error* /*error*/) override {
    layers_.assign(layers.begin(), layers.end());
    thread_ = std::thread([this] { run(); });
    return KVPOOL_OK;
  }
  [[nodiscard]] bool knows_events() const override { return true; }
  [[nodiscard]] bool can_check(uint32_t /*layer*/) const override { return true; }
  [[nodiscard]] std::optional<size_t> submit(const CopyBatch& batch) override {
    const auto way = static_cast<size_t>(batch.way);
    const std::lock_guard lock(late_->mutex);
    if (late_->good_left <= 0) return {};
    if (late_->waiting[way] == late_->batches_max) return 0;
    const size_t taken = std::min(batch.parts.size(), late_->parts_max);
    Batch made{.parts = {batch.parts.begin(), batch.parts.begin() + taken},
               .pages = {batch.pages.begin(), batch.pages.end()},
               .after = batch.after,
               .tag = batch.tag};
    for (const CopyPart& part : made.parts) {
      late_->segments[way].insert(part.segment);
      if (way == Late::to_pages) ++late_->loaded[part.layer];
    }
    waiting_[way].push_back(std::move(made));
    ++late_->waiting[way];
    late_->changed.notify_all();
    return taken;
  }
  [[nodiscard]] bool record(uint64_t event) override {
    const std::lock_guard lock(late_->mutex);
    late_->recorded.push_back({.event = event, .loaded = late_->loaded});
    return late_->good_left > 0;
  }
  [[nodiscard]] size_t poll(std::span<CopyEnd> out) override {
    std::this_thread::sleep_for(std::chrono::microseconds(late_->poll_us));
    const std::lock_guard lock(late_->mutex);
    size_t taken = 0;
    for (; taken < out.size() && !ends_.empty(); ++taken) {
      out[taken] = ends_.front();
      ends_.pop_front();
    }
    return taken;
  }
  [[nodiscard]] int wait_fd() const override { return fd_; }
  void prepare_wait() override {}
  void done_wait() override {
    uint64_t ignored = 0;
    [[maybe_unused]] const ssize_t taken = read(fd_, &ignored, sizeof ignored);
  }

 private:
  struct Batch {
    std::vector<CopyPart> parts;
    std::vector<int32_t> pages;
    uint64_t after = 0;
    uint64_t tag = 0;
  };

  [[nodiscard]] bool may_end(size_t way) const {
    if (waiting_[way].empty() || late_->held[way]) return false;
    const uint64_t after = waiting_[way].front().after;
    return after == 0 || late_->events.contains(after);
  }
  void run() {
    std::unique_lock lock(late_->mutex);
    for (;;) {
      late_->changed.wait(lock, [&] { return closing_ || may_end(0) || may_end(1); });
      if (closing_) return;
      size_t way = random_.below(2);
      if (!may_end(way)) way = 1 - way;
      const bool good = late_->good_left > 0;
      const Batch& batch = waiting_[way].front();  // stays where it is as others come behind it
      lock.unlock();
      if (random_.chance(0.5)) std::this_thread::yield();
      if (good) copy(batch, way);
      lock.lock();
      const bool right = !good || way != Late::to_pages || check(batch);
      if (good) --late_->good_left;
      ends_.push_back({.tag = batch.tag,
                       .code = !good   ? CopyCode::failed
                               : right ? CopyCode::good
                                       : CopyCode::wrong_bytes});
      waiting_[way].pop_front();
      --late_->waiting[way];
      ++late_->ended[way];
      late_->changed.notify_all();
      const uint64_t one = 1;
      [[maybe_unused]] const ssize_t written = write(fd_, &one, sizeof one);
    }
  }
  void copy(const Batch& batch, size_t way) const {
    for (const CopyPart& part : batch.parts) {
      const auto numbers = std::span(batch.pages).subspan(part.pages_first, part.pages_count);
      if (way == Late::to_pages) {
        scatter(layers_[part.layer], numbers, part.segment);
      } else {
        gather(layers_[part.layer], numbers, part.segment);
      }
    }
  }

  // Sums what has come into the pages, as a GPU does. Under the mutex.
  [[nodiscard]] bool check(const Batch& batch) {
    bool right = true;
    for (const CopyPart& part : batch.parts) {
      if (!part.check) continue;
      ++late_->checked;
      const Layer& layer = layers_[part.layer];
      const auto numbers = std::span(batch.pages).subspan(part.pages_first, part.pages_count);
      if (late_->parts_to_spoil > 0) {
        --late_->parts_to_spoil;
        *(layer.base + static_cast<uint64_t>(numbers[0]) * layer.page_stride_bytes) ^= std::byte{1};
      }
      std::vector<std::byte> came(layer.page_bytes() * numbers.size());
      gather(layer, numbers, came.data());
      right = right && checksum(came, part.check->seed) == part.check->sum;
    }
    if (!right) ++late_->wrong;
    return right;
  }

  std::shared_ptr<Late> late_;
  Prng random_;
  std::vector<Layer> layers_;
  std::array<std::deque<Batch>, 2> waiting_;  // the copying thread alone takes from the front
  std::deque<CopyEnd> ends_;
  bool closing_ = false;
  int fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  std::thread thread_;
};

}  // namespace kvpool::pages
