// Traces of requests in Mooncake's format: one JSON object a line with `timestamp` (ms), `input_length` and
// `output_length` (tokens) and `hash_ids`, one for each 512 tokens of input, the last of which may be
// partial. An id stands for the content of its block and of all before it.
//
// Plain data and pure functions, any thread. A file is read and checked whole before any of it is used; what
// is wrong with it is told with file and line.

#pragma once

#include <cstdint>
#include <iosfwd>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace kvpool::bench {

inline constexpr uint64_t trace_block_tokens = 512;

// Blocks that `tokens` tokens of input take, the last one partial or not.
[[nodiscard]] constexpr uint64_t trace_blocks(uint64_t tokens) {
  return tokens / trace_block_tokens + (tokens % trace_block_tokens != 0 ? 1 : 0);
}

struct TraceRequest {
  uint64_t timestamp_ms = 0;
  uint64_t input_tokens = 0;
  uint64_t output_tokens = 0;
  uint64_t ids_first = 0;  // index into Trace::ids_
  uint64_t number = 0;     // in order of adding
  friend bool operator==(const TraceRequest&, const TraceRequest&) = default;
  [[nodiscard]] uint64_t blocks() const { return trace_blocks(input_tokens); }
};

class Trace {
 public:
  // REQUIRES: ids.size() == trace_blocks(input_tokens).
  void add(uint64_t timestamp_ms, uint64_t input_tokens, uint64_t output_tokens,
           std::span<const uint64_t> ids);
  // In order of timestamp, ties in the order of adding.
  void sort();

  [[nodiscard]] const std::vector<TraceRequest>& requests() const { return requests_; }
  [[nodiscard]] std::span<const uint64_t> ids(const TraceRequest& request) const {
    return std::span(ids_).subspan(request.ids_first, request.blocks());
  }
  // Whether each id always follows the same id (or always begins a request), as it does where an id stands
  // for its whole prefix.
  [[nodiscard]] bool is_chained() const;
  friend bool operator==(const Trace&, const Trace&) = default;

 private:
  std::vector<TraceRequest> requests_;
  std::vector<uint64_t> ids_;  // of all requests
};

// Sorted. A trace without requests is an error. `name` is what errors call it.
[[nodiscard]] Result<Trace> read_trace(std::istream& in, const std::string& name);
[[nodiscard]] Result<Trace> load_trace(const std::string& path);

// The same format. The caller looks at the stream's state.
void write_trace(std::ostream& out, const Trace& trace);

// Conversations of many turns: each turn's input is all that was said before and a new prompt, so that it
// finds its past in the pool. Several conversations take turns; all begin with the same system prompt; one
// that has ended makes room for a new one.
struct TraceOptions {
  uint64_t seed = 1;
  uint64_t requests = 1000;
  uint64_t conversations = 32;    // at a time
  uint64_t turns = 8;             // of a conversation, mean
  uint64_t system_tokens = 1024;  // in front of every conversation
  uint64_t prompt_tokens = 1024;  // a turn's new input, mean
  uint64_t output_tokens = 256;   // a turn's answer, mean
  uint64_t think_ms = 30'000;     // from a turn to the next, mean
};

// The same options give the same trace on every machine. INVALID_ARGUMENT names the option and what it
// allows.
[[nodiscard]] Result<Trace> generate_trace(const TraceOptions& options);

}  // namespace kvpool::bench
