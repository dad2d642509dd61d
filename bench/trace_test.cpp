#include "bench/trace.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <sstream>

#include "base/prng.h"

namespace kvpool::bench {
namespace {

Result<Trace> read(const std::string& text) {
  std::istringstream in(text);
  return read_trace(in, "t.jsonl");
}

std::string line(const std::string& timestamp, const std::string& input, const std::string& output,
                 const std::string& ids) {
  return R"({"timestamp": )" + timestamp + R"(, "input_length": )" + input + R"(, "output_length": )" +
         output + R"(, "hash_ids": )" + ids + "}\n";
}

const std::string good = line("5", "1025", "7", "[1, 2, 3]");

TEST(Trace, ReadsWhatMooncakeWrites) {
  const auto trace = read(good);
  ASSERT_TRUE(trace) << trace.error().message;
  ASSERT_EQ(trace->requests().size(), 1);
  const TraceRequest& request = trace->requests()[0];
  EXPECT_EQ(request.timestamp_ms, 5);
  EXPECT_EQ(request.input_tokens, 1025);
  EXPECT_EQ(request.output_tokens, 7);
  EXPECT_TRUE(std::ranges::equal(trace->ids(request), std::vector<uint64_t>{1, 2, 3}));
}

TEST(Trace, IgnoresBlankLinesCarriageReturnsAndUnknownFields) {
  const auto trace = read(
      "\n \t\r\n"
      "{\"x\": {\"y\": [1]}, \"timestamp\": 0, \"input_length\": 0, \"output_length\": 0, "
      "\"hash_ids\": []}\r\n\n" +
      good.substr(0, good.size() - 1));
  ASSERT_TRUE(trace) << trace.error().message;
  EXPECT_EQ(trace->requests().size(), 2);
  EXPECT_EQ(trace->requests()[0].blocks(), 0);
}

TEST(Trace, IsSortedByTimestampTiesInFileOrder) {
  const auto trace = read(line("9", "1", "0", "[1]") + line("3", "1", "0", "[2]") +
                          line("9", "1", "0", "[3]") + line("3", "1", "0", "[4]"));
  ASSERT_TRUE(trace);
  std::vector<uint64_t> ids;
  for (const auto& request : trace->requests()) ids.push_back(trace->ids(request)[0]);
  EXPECT_EQ(ids, (std::vector<uint64_t>{2, 4, 1, 3}));
}

TEST(Trace, ManyTiesKeepFileOrder) {
  std::string text;
  for (int i = 0; i < 500; ++i) text += line(std::to_string(i % 3), "1", "0", "[" + std::to_string(i) + "]");
  const auto trace = read(text);
  ASSERT_TRUE(trace);
  const auto& requests = trace->requests();
  for (size_t i = 1; i < requests.size(); ++i) {
    if (requests[i].timestamp_ms != requests[i - 1].timestamp_ms) continue;
    ASSERT_GT(trace->ids(requests[i])[0], trace->ids(requests[i - 1])[0]);
  }
}

TEST(Trace, NamesFileLineAndFieldOfWhatIsWrong) {
  struct Case {
    std::string bad, named;
  };
  const std::vector<Case> cases = {
      {"[1, 2]", "JSON array"},
      {"7", "JSON number"},
      {"null", "JSON null"},
      {"{", "not valid JSON"},
      {"{} {}", "not valid JSON"},
      {"{'timestamp': 1}", "not valid JSON"},
      {std::string("{\"a\": \"\xff\"}"), "not valid JSON"},
      {std::string("{\0}", 3), "not valid JSON"},
      {std::string(100'000, '['), "not valid JSON"},
      {std::string(50'000, '[') + std::string(50'000, ']'), "JSON array"},
      {R"({"input_length": 1, "output_length": 1, "hash_ids": [1]})", "'timestamp' is missing"},
      {R"({"timestamp": 1, "output_length": 1, "hash_ids": [1]})", "'input_length' is missing"},
      {R"({"timestamp": 1, "input_length": 1, "hash_ids": [1]})", "'output_length' is missing"},
      {R"({"timestamp": 1, "input_length": 1, "output_length": 1})", "'hash_ids' is missing"},
      {line("-1", "1", "1", "[1]"), "'timestamp' must"},
      {line("1.5", "1", "1", "[1]"), "'timestamp' must"},
      {line("1e3", "1", "1", "[1]"), "'timestamp' must"},
      {line("18446744073709551616", "1", "1", "[1]"), "'timestamp' must"},
      {line("\"1\"", "1", "1", "[1]"), "'timestamp' must"},
      {line("1", "-512", "1", "[1]"), "'input_length' must"},
      {line("1", "true", "1", "[1]"), "'input_length' must"},
      {line("1", "1e999", "1", "[1]"), "not valid JSON"},
      {line("1", "1", "null", "[1]"), "'output_length' must"},
      {line("1", "1", "-0.0", "[1]"), "'output_length' must"},
      {line("1", "1", "1", "1"), "'hash_ids' must"},
      {line("1", "513", "1", "[1, -2]"), "'hash_ids'[1] must"},
      {line("1", "513", "1", "[1, [2]]"), "'hash_ids'[1] must"},
      {line("1", "513", "1", "[1]"), "has 1 entries; an input_length of 513 needs 2"},
      {line("1", "512", "1", "[1, 2]"), "has 2 entries"},
      {line("1", "0", "1", "[1]"), "has 1 entries"},
      {line("1", "18446744073709551615", "1", "[1]"), "needs 36028797018963968"},
  };
  for (const Case& each : cases) {
    const auto trace = read(good + "\n" + each.bad);
    ASSERT_FALSE(trace) << each.bad.substr(0, 100);
    EXPECT_EQ(trace.error().code, Errc::invalid_argument);
    EXPECT_TRUE(trace.error().message.starts_with("t.jsonl:3: ")) << trace.error().message;
    EXPECT_NE(trace.error().message.find(each.named), std::string::npos) << trace.error().message;
  }
}

TEST(Trace, WithoutRequestsIsAnError) {
  for (const char* text : {"", "\n\n", "\r\n"}) {
    const auto trace = read(text);
    ASSERT_FALSE(trace);
    EXPECT_NE(trace.error().message.find("no requests"), std::string::npos);
  }
}

TEST(Trace, FilesThatCannotBeReadAreNamed) {
  for (const char* path : {"/nonexistent/trace.jsonl", "/"}) {
    const auto trace = load_trace(path);
    ASSERT_FALSE(trace);
    EXPECT_NE(trace.error().message.find(path), std::string::npos) << trace.error().message;
    EXPECT_EQ(trace.error().message.find("no requests"), std::string::npos) << trace.error().message;
  }
}

TEST(Trace, IsChainedWhereEachIdHasOnePredecessor) {
  const auto chained = [](const std::vector<std::vector<uint64_t>>& requests) {
    Trace trace;
    for (const auto& ids : requests) trace.add(0, ids.size() * trace_block_tokens, 0, ids);
    return trace.is_chained();
  };
  EXPECT_TRUE(chained({{0, 1, 2}, {0, 1, 3}, {4}, {}}));
  EXPECT_FALSE(chained({{0, 1, 2}, {3, 2}}));
  EXPECT_FALSE(chained({{0, 1}, {1}}));
  EXPECT_FALSE(chained({{5, 5}}));
  EXPECT_FALSE(chained({{0, 1, 0}}));
}

// Whatever the bytes are, reading ends in a trace that hangs together or in an error with a line.
TEST(Trace, SurvivesMutations) {
  const std::string seed_text = good + line("7", "513", "1", "[1, 18446744073709551615]") + "\r\n" +
                                R"({"more": [1, {"a": "é"}], "timestamp": 2, "input_length": 1, )"
                                R"("output_length": 3, "hash_ids": [0]})";
  const std::vector<std::string> pieces = {"-",   "1e9",     "\"",   "[",       "]",   "{",           "}",
                                           "\n",  "\\u0000", ",",    ":",       ".",   "null",        "\xff",
                                           "512", "\xc3",    "true", "[[[[",    "\r",  "\0",          "9",
                                           "0",   " ",       "//",   "9999999", "NaN", "\xef\xbb\xbf"};
  constexpr uint64_t rounds = 20'000;
  uint64_t accepted = 0;
  for (uint64_t seed = 0; seed < rounds; ++seed) {
    Prng prng(seed);
    std::string text = seed_text;
    for (uint64_t edits = prng.between(1, 4); edits > 0 && !text.empty(); --edits) {
      const size_t at = prng.below(text.size());
      switch (prng.below(4)) {
        case 0:
          text[at] = static_cast<char>(prng.next());
          break;
        case 1:
          text.erase(at, prng.between(1, 20));
          break;
        case 2:
          text.insert(at, pieces[prng.below(pieces.size())]);
          break;
        default:
          text.insert(at, text.substr(prng.below(text.size()), prng.between(1, 80)));
      }
    }
    const auto trace = read(text);
    if (!trace) {
      ASSERT_TRUE(trace.error().message.starts_with("t.jsonl:")) << "seed " << seed;
      continue;
    }
    ++accepted;
    ASSERT_TRUE(std::ranges::is_sorted(trace->requests(), {}, &TraceRequest::timestamp_ms))
        << "seed " << seed;
    for (const auto& request : trace->requests()) {
      ASSERT_EQ(trace->ids(request).size(), trace_blocks(request.input_tokens)) << "seed " << seed;
    }
  }
  EXPECT_GT(accepted, rounds / 100);
  EXPECT_LT(accepted, rounds);
}

TEST(TraceGenerator, IsDeterministicAndReadsBack) {
  TraceOptions options;
  options.requests = 300;
  const auto trace = generate_trace(options);
  ASSERT_TRUE(trace);
  EXPECT_EQ(*trace, *generate_trace(options));
  std::stringstream text;
  write_trace(text, *trace);
  const auto back = read_trace(text, "generated");
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_EQ(*back, *trace);
  options.seed = 2;
  EXPECT_NE(*trace, *generate_trace(options));
}

TEST(TraceGenerator, ConversationsFindTheirPast) {
  TraceOptions options;
  options.requests = 500;
  options.conversations = 4;
  const auto trace = generate_trace(options);
  ASSERT_TRUE(trace);
  ASSERT_EQ(trace->requests().size(), 500);
  EXPECT_TRUE(trace->is_chained());
  std::set<uint64_t> stored;
  uint64_t hits = 0;
  uint64_t blocks = 0;
  for (const auto& request : trace->requests()) {
    const auto ids = trace->ids(request);
    const auto missing = std::ranges::find_if(ids, [&](uint64_t id) { return !stored.contains(id); });
    hits += static_cast<uint64_t>(missing - ids.begin());
    blocks += ids.size();
    stored.insert(ids.begin(), ids.end());
  }
  // Eight turns a conversation on average: most of what is asked was said before.
  EXPECT_GT(hits * 2, blocks);
  EXPECT_LT(hits, blocks);
}

TEST(TraceGenerator, RefusesWhatCannotBe) {
  TraceOptions options;
  options.requests = 0;
  const auto none = generate_trace(options);
  ASSERT_FALSE(none);
  EXPECT_NE(none.error().message.find("requests"), std::string::npos);
  options = {};
  options.prompt_tokens = 10'000'000;
  options.requests = 10'000'000;
  options.turns = 10'000;
  const auto huge = generate_trace(options);
  ASSERT_FALSE(huge);
  EXPECT_EQ(huge.error().code, Errc::too_large);
}

}  // namespace
}  // namespace kvpool::bench
