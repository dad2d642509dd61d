#include "bench/trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_map>
#include <utility>

#include "base/assert.h"

namespace kvpool::bench {
namespace {

using Json = nlohmann::json;

// What a line may be wrong in; the caller adds file and line.
using Problem = std::optional<std::string>;

constexpr std::string_view whole_number = "a whole number from 0 to 2^64 - 1";

Problem read_number(const Json& object, const char* field, uint64_t& out) {
  const auto found = object.find(field);
  if (found == object.end()) return fmt::format("'{}' is missing", field);
  if (!found->is_number_unsigned()) return fmt::format("'{}' must be {}", field, whole_number);
  out = found->get<uint64_t>();
  return std::nullopt;
}

Problem read_ids(const Json& object, std::vector<uint64_t>& out) {
  const auto found = object.find("hash_ids");
  if (found == object.end()) return "'hash_ids' is missing";
  if (!found->is_array()) return fmt::format("'hash_ids' must be a list, each entry {}", whole_number);
  out.clear();
  for (const Json& id : *found) {
    if (!id.is_number_unsigned()) {
      return fmt::format("'hash_ids'[{}] must be {}", out.size(), whole_number);
    }
    out.push_back(id.get<uint64_t>());
  }
  return std::nullopt;
}

Problem read_line(const std::string& line, std::vector<uint64_t>& ids, Trace& trace) {
  const Json object = Json::parse(line, nullptr, false);
  if (object.is_discarded()) return "not valid JSON; each line must be one JSON object";
  if (!object.is_object())
    return fmt::format("a JSON {}; each line must be one JSON object", object.type_name());
  uint64_t timestamp_ms = 0;
  uint64_t input_tokens = 0;
  uint64_t output_tokens = 0;
  if (auto problem = read_number(object, "timestamp", timestamp_ms)) return problem;
  if (auto problem = read_number(object, "input_length", input_tokens)) return problem;
  if (auto problem = read_number(object, "output_length", output_tokens)) return problem;
  if (auto problem = read_ids(object, ids)) return problem;
  if (ids.size() != trace_blocks(input_tokens)) {
    return fmt::format("'hash_ids' has {} entries; an input_length of {} needs {}, one for each {} tokens",
                       ids.size(), input_tokens, trace_blocks(input_tokens), trace_block_tokens);
  }
  trace.add(timestamp_ms, input_tokens, output_tokens, ids);
  return std::nullopt;
}

bool is_blank(const std::string& line) { return line.find_first_not_of(" \t\r\v\f") == std::string::npos; }

}  // namespace

void Trace::add(uint64_t timestamp_ms, uint64_t input_tokens, uint64_t output_tokens,
                std::span<const uint64_t> ids) {
  KVPOOL_ASSERT(ids.size() == trace_blocks(input_tokens));
  requests_.push_back({timestamp_ms, input_tokens, output_tokens, ids_.size(), requests_.size()});
  ids_.insert(ids_.end(), ids.begin(), ids.end());
}

void Trace::sort() {
  std::ranges::sort(requests_, {}, [](const TraceRequest& request) {
    return std::pair(request.timestamp_ms, request.number);
  });
}

bool Trace::is_chained() const {
  std::unordered_map<uint64_t, std::optional<uint64_t>> before;
  for (const TraceRequest& request : requests_) {
    std::optional<uint64_t> last;
    for (const uint64_t id : ids(request)) {
      if (before.try_emplace(id, last).first->second != last) return false;
      last = id;
    }
  }
  return true;
}

Result<Trace> read_trace(std::istream& in, const std::string& name) {
  Trace trace;
  std::string line;
  std::vector<uint64_t> ids;
  for (uint64_t number = 1; std::getline(in, line); ++number) {
    if (is_blank(line)) continue;
    if (const Problem problem = read_line(line, ids, trace)) {
      return fail(Errc::invalid_argument, fmt::format("{}:{}: {}", name, number, *problem));
    }
  }
  if (in.bad()) return fail_errno(errno, fmt::format("reading the trace {}", name));
  if (trace.requests().empty()) {
    return fail(Errc::invalid_argument, fmt::format("{}: the trace holds no requests", name));
  }
  trace.sort();
  return trace;
}

Result<Trace> load_trace(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return fail_errno(errno, fmt::format("opening the trace {}", path));
  return read_trace(in, path);
}

void write_trace(std::ostream& out, const Trace& trace) {
  for (const TraceRequest& request : trace.requests()) {
    out << fmt::format(R"({{"timestamp": {}, "input_length": {}, "output_length": {}, "hash_ids": [{}]}})"
                       "\n",
                       request.timestamp_ms, request.input_tokens, request.output_tokens,
                       fmt::join(trace.ids(request), ", "));
  }
}

}  // namespace kvpool::bench
