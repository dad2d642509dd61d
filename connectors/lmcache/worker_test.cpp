#include "connectors/lmcache/worker.h"

#include <poll.h>

#include <map>
#include <thread>

#include "api/pool_fixture.h"

namespace kvpool::lmcache {
namespace {

constexpr size_t value_bytes = (1 << 20) + 100;  // two segments
constexpr uint32_t values_a_batch = 8;

class WorkerTest : public api_test::PoolTest {
 protected:
  void SetUp() override {
    PoolTest::SetUp();
    open(toml({"memory", "file"}));
    const kvpool_consumer_options options{.struct_size = sizeof options, .name = "test"};
    ASSERT_EQ(kvpool_consumer_open(pool_, &options, &consumer_, &error_), KVPOOL_OK) << error_.message;
    // Keys and addresses lie on the heap: all memory of the process is a region.
    auto* const first_address = reinterpret_cast<void*>(api_test::page_bytes);
    ASSERT_EQ(kvpool_region_add(consumer_, first_address, (uint64_t{1} << 47) - 2 * api_test::page_bytes),
              KVPOOL_OK);
    worker_ = std::make_unique<Worker>(pool_, consumer_, WorkerOptions{.huge_pages = false});
  }
  void TearDown() override {
    stop();
    PoolTest::TearDown();
  }
  void stop() {
    if (consumer_ == nullptr) return;
    worker_->stop();
    EXPECT_EQ(kvpool_consumer_close(consumer_, api_test::patience_us, &error_), KVPOOL_OK) << error_.message;
    consumer_ = nullptr;
    worker_->fail_all("the test is over");
  }

  // Its values are in the part of the memory that belongs to the number.
  std::unique_ptr<Batch> make(BatchKind kind, uint64_t number) {
    auto batch = std::make_unique<Batch>();
    batch->id = (number << 2) + static_cast<uint64_t>(kind);
    batch->kind = kind;
    for (uint32_t i = 0; i < values_a_batch; ++i) {
      batch->keys.push_back({.high = number, .low = i});
      if (batch->moves_data()) batch->values.push_back(place(number, i));
    }
    return batch;
  }
  std::span<std::byte> place(uint64_t number, uint32_t i) {
    return std::span(memory_).subspan((number * values_a_batch + i) * value_bytes, value_bytes);
  }
  void submit(BatchKind kind, uint64_t number) {
    std::unique_ptr<Batch> batch = make(kind, number);
    EXPECT_TRUE(worker_->submit(batch));
  }
  // The next of the finished ones that has that number; batches of others are kept for them.
  std::unique_ptr<Batch> wait(uint64_t number) {
    pollfd descriptor{.fd = worker_->event_fd(), .events = POLLIN, .revents = 0};
    const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(api_test::patience_us);
    while (std::chrono::steady_clock::now() < until) {
      {
        const std::lock_guard lock(mutex_);
        for (auto& batch : worker_->take_done()) ended_[batch->id >> 2] = std::move(batch);
        if (auto found = ended_.extract(number)) return std::move(found.mapped());
      }
      ::poll(&descriptor, 1, 1);
    }
    ADD_FAILURE() << "a batch hangs";
    return make(BatchKind::exists, number);
  }
  [[nodiscard]] std::unique_ptr<Batch> run(BatchKind kind, uint64_t number) {
    submit(kind, number);
    return wait(number);
  }

  std::vector<std::byte> memory_ = std::vector<std::byte>(3 * values_a_batch * value_bytes);
  kvpool_consumer* consumer_ = nullptr;
  std::unique_ptr<Worker> worker_;
  std::mutex mutex_;
  std::map<uint64_t, std::unique_ptr<Batch>> ended_;
};

TEST_F(WorkerTest, ServesThreadsAtTheSameTime) {
  std::vector<std::thread> threads;
  for (uint64_t number = 0; number < 3; ++number) {
    threads.emplace_back([this, number] {
      for (int round = 0; round < 5; ++round) {
        for (uint32_t i = 0; i < values_a_batch; ++i)
          api_test::fill_segment(place(number, i), {.high = number, .low = i}, 0);
        EXPECT_TRUE(run(BatchKind::set, number)->ok);
        EXPECT_EQ(run(BatchKind::exists, number)->found, std::vector<uint8_t>(values_a_batch, 1));
        for (uint32_t i = 0; i < values_a_batch; ++i) std::ranges::fill(place(number, i), api_test::guard);
        EXPECT_EQ(run(BatchKind::get, number)->found, std::vector<uint8_t>(values_a_batch, 1));
        for (uint32_t i = 0; i < values_a_batch; ++i)
          EXPECT_TRUE(api_test::holds_segment(place(number, i), {.high = number, .low = i}, 0));
        EXPECT_TRUE(run(BatchKind::remove, number)->ok);
        EXPECT_EQ(run(BatchKind::exists, number)->found, std::vector<uint8_t>(values_a_batch, 0));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(WorkerTest, EndsEveryBatchWhenItIsStopped) {
  for (uint64_t number = 0; number < 3; ++number) submit(BatchKind::set, number);
  stop();
  size_t ended = 0;
  for (const auto& batch : worker_->take_done()) {
    ++ended;
    EXPECT_TRUE(batch->ok || batch->error == "the test is over");
  }
  EXPECT_EQ(ended, 3U);
  std::unique_ptr<Batch> late = make(BatchKind::get, 0);
  EXPECT_FALSE(worker_->submit(late));
}

}  // namespace
}  // namespace kvpool::lmcache
