#include "bench/replay.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "base/prng.h"
#include "base/units.h"
#include "bench/testing/fake_pool.h"

namespace kvpool::bench {
namespace {

// Two small segments of unequal, unaligned size; the first is a window where `window` says so.
Geometry small_geometry(bool window = false) {
  return {.name = "small",
          .block_tokens = 512,
          .segment_bytes = {72, 40},
          .window = window ? std::vector<bool>{true, false} : std::vector<bool>{}};
}

Trace trace_of(const std::vector<std::vector<uint64_t>>& requests) {
  Trace trace;
  for (const auto& ids : requests) trace.add(0, ids.size() * trace_block_tokens, 0, ids);
  return trace;
}

class Replay : public ::testing::Test {
 protected:
  void SetUp() override { fake_pool() = {}; }

  ReplayReport run(const Trace& trace) {
    auto pool = Pool::open("fake");
    EXPECT_TRUE(pool);
    auto report = replay(*pool, trace, options_);
    EXPECT_TRUE(report) << report.error().message;
    EXPECT_EQ(fake_pool().pins_held, 0);
    return report ? *report : ReplayReport{};
  }

  ReplayOptions options_{.geometry = small_geometry(), .region_bytes = 4 * mib, .progress = {}};
};

// What a pool with room for all must give, by a set of ids.
ReplayReport expected(const Trace& trace) {
  ReplayReport report;
  std::set<uint64_t> stored;
  for (const TraceRequest& request : trace.requests()) {
    const auto ids = trace.ids(request);
    uint64_t hits = 0;
    while (hits < ids.size() && stored.contains(ids[hits])) ++hits;
    report.hit_blocks += hits;
    report.hit_tokens += std::min(hits * 512, request.input_tokens);
    for (const uint64_t id : ids) report.stored_blocks += stored.insert(id).second ? 1 : 0;
    report.blocks += ids.size();
    ++report.requests;
  }
  return report;
}

void expect_like(const ReplayReport& report, const ReplayReport& wanted) {
  EXPECT_EQ(report.requests, wanted.requests);
  EXPECT_EQ(report.blocks, wanted.blocks);
  EXPECT_EQ(report.hit_blocks, wanted.hit_blocks);
  EXPECT_EQ(report.hit_tokens, wanted.hit_tokens);
  EXPECT_EQ(report.stored_blocks, wanted.stored_blocks);
  EXPECT_EQ(report.rejected_blocks, 0);
  EXPECT_EQ(report.evicted_blocks, 0);
  EXPECT_EQ(report.bounced_bytes, 0);
  EXPECT_TRUE(report.is_good());
}

Trace conversations(uint64_t requests = 200) {
  TraceOptions options;
  options.requests = requests;
  options.conversations = 8;
  return *generate_trace(options);
}

TEST_F(Replay, CountsHitsStoresAndBytes) {
  const Trace trace = trace_of({{0, 1, 2}, {0, 1, 3, 4}, {0, 1, 2}, {}});
  const ReplayReport report = run(trace);
  expect_like(report, expected(trace));
  EXPECT_EQ(report.hit_blocks, 5);
  EXPECT_EQ(report.stored_blocks, 5);
  EXPECT_EQ(report.bytes_written, 5 * 112);
  EXPECT_EQ(report.bytes_read, 5 * 112);
  EXPECT_EQ(report.retrieve_ms.size(), 2);
  EXPECT_EQ(report.store_ms.size(), 2);
}

TEST_F(Replay, PartialBlockCountsAsOneButNotItsMissingTokens) {
  Trace trace;
  const std::vector<uint64_t> ids = {1, 2};
  trace.add(0, 700, 1, ids);
  trace.add(1, 700, 1, ids);
  const ReplayReport report = run(trace);
  EXPECT_EQ(report.hit_blocks, 2);
  EXPECT_EQ(report.hit_tokens, 700);
}

TEST_F(Replay, SplitsRequestsByLimitsAndRegion) {
  const Trace trace = conversations();
  const ReplayReport wanted = expected(trace);
  for (const uint32_t blocks_max : {1U, 2U, 3U, 7U}) {
    fake_pool().blocks_per_request = options_.blocks_max = blocks_max;
    expect_like(run(trace), wanted);
    EXPECT_EQ(fake_pool().blocks_max_seen, blocks_max);
  }
  fake_pool().blocks_per_request = options_.blocks_max = 4096;
  fake_pool().segments_per_request = options_.segments_max = 5;
  expect_like(run(trace), wanted);
  fake_pool().segments_per_request = options_.segments_max = 32768;
  // From room for one block in one lane to room for a few in two.
  for (uint64_t region = 7 * 4096; region <= 40 * 4096; region += 4096) {
    options_.region_bytes = region;
    expect_like(run(trace), wanted);
  }
}

TEST_F(Replay, SaysWhatTheRegionLacks) {
  auto pool = Pool::open("fake");
  options_.region_bytes = 3 * 4096;
  const auto report = replay(*pool, conversations(), options_);
  ASSERT_FALSE(report);
  EXPECT_EQ(report.error().code, Errc::too_large);
  EXPECT_NE(report.error().message.find("buffers"), std::string::npos);
  options_.region_bytes = mib;
  options_.segments_max = 1;
  const auto narrow = replay(*pool, conversations(), options_);
  ASSERT_FALSE(narrow);
  EXPECT_NE(narrow.error().message.find("segments_per_request"), std::string::npos);
}

TEST_F(Replay, WindowSegmentsComeWithTheLastBlockOfATicket) {
  options_.geometry = small_geometry(true);
  const Trace trace = trace_of({{0, 1, 2, 3, 4}, {0, 1, 2, 3, 4}});
  EXPECT_EQ(run(trace).bytes_read, 5 * 40 + 72);
  options_.blocks_max = 2;
  const ReplayReport report = run(trace);
  EXPECT_TRUE(report.is_good());
  EXPECT_EQ(report.bytes_read, 5 * 40 + 3 * 72);
}

TEST_F(Replay, AWrongWindowSegmentIsSeen) {
  options_.geometry.window = {true, true};
  fake_pool().wrong_block_every = 3;
  EXPECT_EQ(run(trace_of({{0, 1, 2}, {0, 1, 2}})).wrong_blocks, 1);
  fake_pool().wrong_block_every = 2;  // not the last of its ticket: none of its segments came
  EXPECT_EQ(run(trace_of({{0, 1, 2}, {0, 1, 2}})).wrong_blocks, 0);
}

TEST_F(Replay, WaitsWhereThePoolIsBusy) {
  const Trace trace = conversations(60);
  options_.blocks_max = 3;
  fake_pool().busy_call_every = 3;
  fake_pool().busy_result_every = 5;
  expect_like(run(trace), expected(trace));
}

TEST_F(Replay, EveryWrongBlockIsCounted) {
  const Trace trace = conversations();
  fake_pool().wrong_block_every = 10;
  options_.blocks_max = 7;
  const ReplayReport report = run(trace);
  EXPECT_EQ(report.wrong_blocks, report.hit_blocks / 10);
  EXPECT_GT(report.wrong_blocks, 0);
  EXPECT_FALSE(report.is_good());
}

TEST_F(Replay, ARunThatComesBackShortHasFewerHits) {
  const Trace trace = trace_of({{0, 1, 2, 3}, {0, 1, 2, 3}, {0, 1, 2, 3}});
  fake_pool().short_retrieve_every = 2;
  options_.blocks_max = 2;
  // The second request's second ticket and the third's second one lose a block each.
  const ReplayReport report = run(trace);
  EXPECT_EQ(report.hit_blocks, 6);
  EXPECT_TRUE(report.is_good());
}

TEST_F(Replay, FailedStoresAreToldAndEndTheirRequest) {
  fake_pool().failed_store_every = 2;
  options_.blocks_max = 2;
  const ReplayReport report = run(trace_of({{0, 1, 2, 3, 4, 5}, {0, 1}}));
  EXPECT_EQ(report.stored_blocks, 2);
  EXPECT_EQ(report.hit_blocks, 2);
  EXPECT_EQ(report.failed_requests, 1);
  EXPECT_FALSE(report.is_good());
}

TEST_F(Replay, ASmallPoolEvictsRejectsAndStaysRight) {
  const Trace trace = conversations(400);
  const ReplayReport all = expected(trace);
  for (const uint64_t room : {5ULL, 20ULL, 60ULL}) {
    fake_pool().blocks_max = room;
    for (const uint32_t blocks_max : {4U, 4096U}) {
      options_.blocks_max = blocks_max;
      const ReplayReport report = run(trace);
      EXPECT_TRUE(report.is_good());
      EXPECT_LT(report.hit_blocks, all.hit_blocks);
      EXPECT_EQ(report.hit_blocks + report.stored_blocks + report.rejected_blocks, report.blocks);
      EXPECT_EQ(report.stored_blocks - report.evicted_blocks, room);
    }
  }
}

TEST_F(Replay, IdsThatStandAloneAreStoredOnce) {
  // 7 and 8 have several predecessors, 5 is named twice in a request: a flat namespace.
  const Trace trace = trace_of({{5, 5, 7, 8}, {5, 5, 8}, {9, 7, 10, 8}, {7, 9}, {10, 10, 10}});
  ASSERT_FALSE(trace.is_chained());
  const ReplayReport wanted = expected(trace);
  EXPECT_EQ(wanted.stored_blocks, 5);
  for (const uint32_t blocks_max : {1U, 2U, 4096U}) {
    options_.blocks_max = blocks_max;
    expect_like(run(trace), wanted);
  }
}

TEST_F(Replay, BlocksBehindARefusedOneAreStoredWhereTheyStandAlone) {
  std::vector<std::vector<uint64_t>> requests(40);
  Prng prng(1);
  for (auto& ids : requests) {
    for (int i = 0; i < 10; ++i) ids.push_back(prng.next());
  }
  requests.push_back({requests[0][1], requests[0][0]});  // so that nothing is a chain
  fake_pool().refused_block_every = 7;
  for (const uint32_t blocks_max : {1U, 3U, 4096U}) {
    options_.blocks_max = blocks_max;
    const ReplayReport report = run(trace_of(requests));
    EXPECT_EQ(report.stored_blocks, fake_pool().stored_blocks);
    EXPECT_EQ(report.rejected_blocks, 400 / 7);
  }
}

TEST_F(Replay, NothingIsStoredBehindARefusedBlockOfAChain) {
  fake_pool().refused_block_every = 4;
  for (const uint32_t blocks_max : {1U, 2U, 4096U}) {
    options_.blocks_max = blocks_max;
    const ReplayReport report = run(trace_of({{0, 1, 2, 3, 4, 5, 6}, {0, 1, 2, 3, 4, 5, 6}}));
    EXPECT_EQ(report.stored_blocks, 3U + 3U);
    EXPECT_EQ(report.hit_blocks, 3);
    EXPECT_EQ(report.rejected_blocks, 4U + 1U);
  }
}

TEST_F(Replay, RandomTracesOfAnyShapeMatchTheModel) {
  for (uint64_t seed = 0; seed < 100; ++seed) {
    Prng prng(seed);
    std::vector<std::vector<uint64_t>> requests(prng.between(1, 20));
    for (auto& ids : requests) {
      ids.resize(prng.below(12));
      for (uint64_t& id : ids) id = prng.below(8);
    }
    const Trace trace = trace_of(requests);
    options_.blocks_max = static_cast<uint32_t>(prng.between(1, 6));
    fake_pool().busy_call_every = prng.below(4) == 0 ? 3 : 0;
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    expect_like(run(trace), expected(trace));
  }
}

TEST_F(Replay, LimitTakesTheFirstRequests) {
  const Trace trace = trace_of({{0}, {0, 1}, {0, 1, 2}});
  options_.requests_max = 2;
  uint64_t told = 0;
  options_.progress = [&](uint64_t done, uint64_t all) { told += done * 10 + all; };
  EXPECT_EQ(run(trace).blocks, 3);
  EXPECT_EQ(told, 12U + 22U);
}

TEST_F(Replay, SpeedIsAMultipleOfTraceTime) {
  Trace trace;
  const std::vector<uint64_t> ids = {1};
  trace.add(1'000'000, 1, 1, ids);
  trace.add(1'040'000, 1, 1, ids);
  options_.speed = 1000;
  EXPECT_GE(run(trace).seconds, 0.040);
}

TEST(ReplayGeometry, IsTheModelsAtTheTracesBlockSize) {
  const auto llama = replay_geometry("llama-3.1-8b");
  ASSERT_TRUE(llama);
  EXPECT_EQ(llama->block_tokens, 512);
  EXPECT_EQ(llama->block_bytes(), 512ULL * 131'072);
  EXPECT_FALSE(replay_geometry("no-such-model"));
  const auto bytes = replay_geometry(64);
  ASSERT_TRUE(bytes);
  EXPECT_EQ(bytes->segment_bytes, std::vector<uint32_t>(4, 8192));
  EXPECT_EQ(replay_geometry(1)->segment_bytes, std::vector<uint32_t>(4, 4096));
  EXPECT_FALSE(replay_geometry(0));
  EXPECT_TRUE(replay_geometry(8ULL << 20));
  EXPECT_FALSE(replay_geometry((8ULL << 20) + 1));
  EXPECT_FALSE(replay_geometry(UINT64_MAX));
}

TEST(ReplayReportJson, HasTheKeysOfTheDocumentation) {
  ReplayReport report;
  report.retrieve_ms.resize(100);
  std::iota(report.retrieve_ms.begin(), report.retrieve_ms.end(), 1.0);
  const auto json = to_json(report);
  for (const char* name :
       {"requests", "blocks", "hit_blocks", "hit_tokens", "stored_blocks", "rejected_blocks",
        "evicted_blocks", "bytes_read", "bytes_written", "bounced_bytes", "wrong_blocks", "seconds"}) {
    EXPECT_TRUE(json.contains(name)) << name;
  }
  EXPECT_EQ(json["retrieve_ms_p50"], 50);
  EXPECT_EQ(json["retrieve_ms_p90"], 90);
  EXPECT_EQ(json["retrieve_ms_p99"], 99);
  EXPECT_EQ(json["retrieve_ms_max"], 100);
  EXPECT_TRUE(json["store_ms_p50"].is_null());
  EXPECT_FALSE(to_text(report).empty());
}

TEST_F(Replay, TheSharedConversationTraceGivesItsCounts) {
  const std::string path = std::string(KVPOOL_SHARED_TRACES) + "/mooncake-conversation.jsonl";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "no trace beside the checkout: " << path;
  const auto trace = load_trace(path);
  ASSERT_TRUE(trace) << trace.error().message;
  EXPECT_TRUE(trace->is_chained());
  const ReplayReport report = run(*trace);
  EXPECT_EQ(report.requests, 12'031);
  EXPECT_EQ(report.blocks, 288'500);
  EXPECT_EQ(report.hit_blocks, 105'710);
  EXPECT_EQ(report.stored_blocks, 182'790);
  EXPECT_EQ(report.hit_tokens, 54'098'411);
  EXPECT_EQ(report.rejected_blocks, 0);
  EXPECT_TRUE(report.is_good());
  fake_pool().blocks_max = 18'279;
  const ReplayReport tight = run(*trace);
  EXPECT_TRUE(tight.is_good());
  EXPECT_EQ(tight.rejected_blocks, 0);
  EXPECT_GT(tight.hit_blocks, 0);
  EXPECT_LT(tight.hit_blocks, report.hit_blocks);
}

}  // namespace
}  // namespace kvpool::bench
