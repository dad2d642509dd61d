#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/assert.h"
#include "base/units.h"
#include "bench/replay.h"

namespace kvpool::bench {
namespace {

struct Rank {
  const char* name;
  double share;
};
constexpr std::array ranks = {Rank{"p50", 0.50}, Rank{"p90", 0.90}, Rank{"p99", 0.99}, Rank{"max", 1.0}};

void add_percentiles(nlohmann::ordered_json& json, const std::string& name, const std::vector<double>& ms) {
  for (const Rank& rank : ranks) {
    auto& value = json[name + "_" + rank.name];
    if (!ms.empty()) value = percentile(ms, rank.share);
  }
}

std::string percentiles_text(const std::vector<double>& ms) {
  if (ms.empty()) return "none";
  std::string text;
  for (const Rank& rank : ranks) {
    text += fmt::format("{}{} {:.2f}", text.empty() ? "" : ", ", rank.name, percentile(ms, rank.share));
  }
  return text + " ms";
}

double share(uint64_t part, uint64_t whole) {
  return whole == 0 ? 0 : 100.0 * static_cast<double>(part) / static_cast<double>(whole);
}

}  // namespace

double percentile(const std::vector<double>& ascending, double rank) {
  KVPOOL_ASSERT(!ascending.empty());
  const auto place = static_cast<size_t>(std::ceil(rank * static_cast<double>(ascending.size())));
  return ascending[std::clamp<size_t>(place, 1, ascending.size()) - 1];
}

nlohmann::ordered_json to_json(const ReplayReport& report) {
  nlohmann::ordered_json json;
  json["requests"] = report.requests;
  json["blocks"] = report.blocks;
  json["hit_blocks"] = report.hit_blocks;
  json["hit_tokens"] = report.hit_tokens;
  json["stored_blocks"] = report.stored_blocks;
  json["rejected_blocks"] = report.rejected_blocks;
  json["evicted_blocks"] = report.evicted_blocks;
  json["bytes_read"] = report.bytes_read;
  json["bytes_written"] = report.bytes_written;
  json["bounced_bytes"] = report.bounced_bytes;
  json["wrong_blocks"] = report.wrong_blocks;
  json["failed_requests"] = report.failed_requests;
  json["seconds"] = report.seconds;
  add_percentiles(json, "retrieve_ms", report.retrieve_ms);
  add_percentiles(json, "store_ms", report.store_ms);
  return json;
}

std::string to_text(const ReplayReport& report) {
  std::string text;
  text += fmt::format("requests   {} with {} blocks, in {:.2f} s\n", report.requests, report.blocks,
                      report.seconds);
  text += fmt::format("hits       {} blocks ({:.1f} %), {} tokens, {} read\n", report.hit_blocks,
                      share(report.hit_blocks, report.blocks), report.hit_tokens,
                      format_bytes(report.bytes_read));
  text += fmt::format("stored     {} blocks, {} written; {} rejected, {} evicted\n", report.stored_blocks,
                      format_bytes(report.bytes_written), report.rejected_blocks, report.evicted_blocks);
  text += fmt::format("retrieve   {}\n", percentiles_text(report.retrieve_ms));
  text += fmt::format("store      {}\n", percentiles_text(report.store_ms));
  text +=
      fmt::format("wrong      {} blocks; {} requests failed\n", report.wrong_blocks, report.failed_requests);
  return text;
}

}  // namespace kvpool::bench
