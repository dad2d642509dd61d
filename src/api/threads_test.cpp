// Several threads, a consumer each, on the same keys: whatever they do to each other, every byte that a
// request delivers is right, and every request ends. Consumers open and close meanwhile.

#include <gtest/gtest.h>

#include <atomic>
#include <deque>
#include <thread>
#include <utility>

#include "api/pool_fixture.h"

namespace kvpool::api_test {
namespace {

constexpr uint32_t threads = 4;
constexpr uint32_t under_way_max = 6;
constexpr uint64_t chains = 12;
constexpr uint32_t chain_blocks_max = 6;
constexpr uint64_t blocks_wanted = 100;  // however long these take, within a minute
constexpr auto duration_min = std::chrono::seconds(1);
constexpr auto duration_max = std::chrono::seconds(60);

enum class Kind : uint8_t { store, retrieve, redeem, match, remove };

struct UnderWay {
  Kind kind = Kind::match;
  kvpool_ticket ticket = 0;
  uint32_t lane = 0;  // a part of the region: its buffers belong to the pool until the release
  Batch batch;
};

// One thread's consumer, and what it has under way.
class Actor {
 public:
  Actor(kvpool_pool* pool, const Shape& shape, uint64_t seed)
      : shape_(shape), prng_(seed), client_(pool, under_way_max * lane_bytes) {
    uint64_t bytes = 0;
    base_ = static_cast<std::byte*>(kvpool_region(client_.handle(), &bytes));
    for (uint32_t lane = 0; lane < under_way_max; ++lane) lanes_.push_back(lane);
  }

  // These two return how many blocks were compared.
  uint64_t step() {
    if (!lanes_.empty()) send();
    if (prng_.chance(0.05) && !under_way_.empty()) {
      const auto& one = under_way_[prng_.below(under_way_.size())];
      EXPECT_EQ(kvpool_cancel(client_.handle(), one.ticket), KVPOOL_OK);
    }
    if (lanes_.empty() || prng_.chance(0.5)) {
      finish(under_way_.front());
      under_way_.pop_front();
    }
    return std::exchange(blocks_checked_, 0);
  }
  uint64_t drain() {
    for (UnderWay& one : under_way_) finish(one);
    under_way_.clear();
    return std::exchange(blocks_checked_, 0);
  }

 private:
  static constexpr uint64_t lane_bytes = 512 << 10;

  void send() {
    UnderWay one;
    one.lane = lanes_.back();
    lanes_.pop_back();
    client_.use({base_ + one.lane * lane_bytes, lane_bytes});
    const auto kind = prng_.below(100);
    const bool whole = kind < 40;
    BatchOptions options{.first_key = 1 + 1000 * prng_.below(chains),
                         .blocks = static_cast<uint32_t>(prng_.between(1, chain_blocks_max))};
    if (!whole) {
      options.segment_first = static_cast<uint32_t>(prng_.below(shape_.segments()));
      options.misalign_bytes = prng_.chance(0.3) ? 8 : 0;
    }
    one.batch = client_.batch(shape_, options);
    kvpool_request request = Client::request(shape_, one.batch);
    if (prng_.chance(0.05)) request.timeout_us = prng_.between(1, 300);
    if (kind < 40) {
      one.kind = Kind::store;
      request.segment_first = request.segment_count = 0;
      one.batch.fill();
      one.ticket = client_.send(kvpool_store, request);
    } else if (kind < 70) {
      one.kind = Kind::retrieve;
      one.ticket = client_.send(kvpool_retrieve, request);
    } else if (kind < 90) {
      one.kind = Kind::match;
      request.flags = prng_.chance(0.7) ? KVPOOL_PIN : 0;
      one.ticket = client_.send(kvpool_match, request);
    } else {
      one.kind = Kind::remove;
      one.ticket = client_.send(kvpool_delete, request);
    }
    under_way_.push_back(std::move(one));
  }

  void finish(UnderWay& one) {
    const Ends ends = client_.finish(one.ticket);
    check(one, ends);
    if (one.kind == Kind::match && ends.result.pin != 0) {
      // Redeemed at once, in the same lane; staged before, at times.
      const uint32_t blocks = ends.result.blocks;
      kvpool_request request = Client::pinned(ends.result.pin, 0, blocks);
      if (prng_.chance(0.3)) {
        const Ends staged = client_.run(kvpool_stage, request);
        EXPECT_LE(staged.result.blocks, blocks);
      }
      request.flags = KVPOOL_TAKE_PIN;
      request.buffers = one.batch.addresses.data();
      request.segment_first = one.batch.segment_first;
      request.segment_count = one.batch.columns;
      one.kind = Kind::redeem;
      const Ends redeemed = client_.run(kvpool_retrieve, request);
      EXPECT_TRUE(redeemed.status() != KVPOOL_INVALID_ARGUMENT);
      if (redeemed.status() == KVPOOL_BUSY) {
        EXPECT_EQ(client_.run(kvpool_unpin, Client::pinned(ends.result.pin, 0, 0)).status(), KVPOOL_OK);
      }
      check(one, redeemed);
    }
    lanes_.push_back(one.lane);
  }

  void check(const UnderWay& one, const Ends& ends) {
    const kvpool_status status = ends.status();
    EXPECT_TRUE(status == KVPOOL_OK || status == KVPOOL_MISS || status == KVPOOL_BUSY ||
                status == KVPOOL_REJECTED || status == KVPOOL_CANCELLED || status == KVPOOL_TIMED_OUT)
        << kvpool_status_string(status);
    if (one.kind != Kind::retrieve && one.kind != Kind::redeem) return;
    for (uint32_t block = 0; block < ends.result.blocks; ++block) {
      for (uint32_t column = 0; column < ends.result.segments; ++column) {
        EXPECT_TRUE(one.batch.holds(block, column)) << "wrong bytes: block " << block << ", " << column;
      }
      ++blocks_checked_;
    }
  }

  const Shape& shape_;
  Prng prng_;
  Client client_;
  std::byte* base_ = nullptr;
  std::vector<uint32_t> lanes_;
  std::deque<UnderWay> under_way_;
  uint64_t blocks_checked_ = 0;
};

// The catalog has room for fewer blocks than there are keys, so that blocks go while others are read.
class Threads : public PoolTest {
 protected:
  // For a second, and until enough blocks were compared and some evicted; returns how many were compared.
  uint64_t run(const Shape& shape, bool reopen) {
    const auto began = std::chrono::steady_clock::now();
    std::atomic<uint64_t> checked{0};
    const auto go_on = [this, began, &checked] {
      const auto lasted = std::chrono::steady_clock::now() - began;
      if (lasted < duration_min) return true;
      return lasted < duration_max && (checked < blocks_wanted || stats().evicted_blocks == 0);
    };
    std::vector<std::thread> all;
    for (uint32_t thread = 0; thread < threads; ++thread) {
      all.emplace_back([this, &shape, &checked, &go_on, thread, reopen] {
        uint64_t seed = 1000 * thread;
        while (go_on()) {
          Actor actor(pool_, shape, ++seed);
          for (uint32_t steps = 0; go_on() && (!reopen || steps < 100); ++steps) checked += actor.step();
          // Half of the consumers close with requests under way.
          if (!reopen || seed % 2 == 0) checked += actor.drain();
        }
      });
    }
    for (std::thread& thread : all) thread.join();
    return checked;
  }
  void expect_quiet() {
    const kvpool_stats all = stats();
    EXPECT_EQ(all.tickets_under_way, 0U);
    EXPECT_EQ(all.pins_held, 0U);
    EXPECT_EQ(all.checksum_errors, 0U);
    EXPECT_EQ(all.io_errors, 0U);
    EXPECT_EQ(all.invalid_requests, 0U);
    EXPECT_GT(all.evicted_blocks, 0U);
  }
};

TEST_F(Threads, ShareKeysAndNeverSeeWrongBytes) {
  open(toml({"memory", "file"}, "blocks = 48"));
  const Shape shape = make({.name = "odd", .segment_bytes = {4096, 6000, 16384, 100}, .window = {}});
  EXPECT_GE(run(shape, false), blocks_wanted);
  expect_quiet();
}

TEST_F(Threads, ConsumersComeAndGo) {
  open(toml({"memory", "file"}, "tickets = 8\npins = 4\nblocks = 48"));
  const Shape shape = make({.name = "flat", .flat = true});
  EXPECT_GE(run(shape, true), blocks_wanted);
  expect_quiet();
}

}  // namespace
}  // namespace kvpool::api_test
