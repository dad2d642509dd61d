#include <fmt/format.h>

#include <array>
#include <queue>

#include "base/prng.h"
#include "bench/trace.h"

namespace kvpool::bench {
namespace {

// A trace beyond this many ids takes more memory than a generated one is worth.
constexpr uint64_t ids_max = 20'000'000;

struct Conversation {
  std::vector<uint64_t> full_ids;  // of the blocks that its history fills; they never change again
  uint64_t history_tokens = 0;
  uint64_t turns_left = 0;
};

// When each conversation speaks next; ties go to the lower index, so that the order is the same everywhere.
using Turn = std::pair<uint64_t, uint64_t>;  // time in ms, index of the conversation
using Turns = std::priority_queue<Turn, std::vector<Turn>, std::greater<>>;

class Generator {
 public:
  explicit Generator(const TraceOptions& options) : options_(options), prng_(options.seed) {
    for (uint64_t i = 0; i < options.system_tokens / trace_block_tokens; ++i)
      system_ids_.push_back(id_next_++);
  }

  Result<Trace> run() {
    Trace trace;
    std::vector<Conversation> conversations(options_.conversations);
    Turns turns;
    for (uint64_t i = 0; i < conversations.size(); ++i) {
      begin(conversations[i]);
      turns.emplace(prng_.below(2 * options_.think_ms + 1), i);
    }
    for (uint64_t ids = 0; trace.requests().size() < options_.requests;) {
      const auto [time_ms, index] = turns.top();
      turns.pop();
      speak(conversations[index], time_ms, trace);
      ids += trace.requests().back().blocks();
      if (ids > ids_max) {
        return fail(Errc::too_large, fmt::format("the trace would have more than {} blocks; ask for fewer "
                                                 "requests, turns or tokens",
                                                 ids_max));
      }
      turns.emplace(time_ms + around(options_.think_ms), index);
    }
    return trace;
  }

 private:
  // Uniform from 1 to 2 mean - 1. REQUIRES: mean > 0.
  uint64_t around(uint64_t mean) { return prng_.between(1, 2 * mean - 1); }

  void begin(Conversation& conversation) {
    conversation.full_ids = system_ids_;
    conversation.history_tokens = options_.system_tokens;
    conversation.turns_left = around(options_.turns);
  }

  // One turn. A last, partial block gets an id of its own: once the answer fills it up, its content is
  // another.
  void speak(Conversation& conversation, uint64_t time_ms, Trace& trace) {
    const uint64_t input_tokens = conversation.history_tokens + around(options_.prompt_tokens);
    const uint64_t output_tokens = around(options_.output_tokens);
    while (conversation.full_ids.size() < input_tokens / trace_block_tokens) {
      conversation.full_ids.push_back(id_next_++);
    }
    ids_ = conversation.full_ids;
    if (ids_.size() < trace_blocks(input_tokens)) ids_.push_back(id_next_++);
    trace.add(time_ms, input_tokens, output_tokens, ids_);
    conversation.history_tokens = input_tokens + output_tokens;
    if (--conversation.turns_left == 0) begin(conversation);
  }

  const TraceOptions& options_;
  Prng prng_;
  std::vector<uint64_t> system_ids_;
  std::vector<uint64_t> ids_;
  uint64_t id_next_ = 0;
};

}  // namespace

Result<Trace> generate_trace(const TraceOptions& options) {
  struct Range {
    const char* name;
    uint64_t value, least, most;
  };
  for (const Range& range : std::array{
           Range{"requests", options.requests, 1, 10'000'000},
           Range{"conversations", options.conversations, 1, 1'000'000},
           Range{"turns", options.turns, 1, 10'000},
           Range{"system tokens", options.system_tokens, 0, 10'000'000},
           Range{"prompt tokens", options.prompt_tokens, 1, 10'000'000},
           Range{"output tokens", options.output_tokens, 1, 10'000'000},
           Range{"think time in ms", options.think_ms, 1, 1'000'000'000},
       }) {
    if (range.value < range.least || range.value > range.most) {
      return fail(Errc::invalid_argument, fmt::format("{}: {} is not from {} to {}", range.name, range.value,
                                                      range.least, range.most));
    }
  }
  return Generator(options).run();
}

}  // namespace kvpool::bench
