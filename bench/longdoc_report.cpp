#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>

#include "bench/longdoc.h"

namespace kvpool::bench {
namespace {

struct PrefillPoint {
  double tokens;
  double seconds;
};
// Measured; between them a straight line, outside them the nearest.
constexpr std::array prefill_points{PrefillPoint{16384, 0.034}, PrefillPoint{32768, 0.035},
                                    PrefillPoint{65536, 0.058}, PrefillPoint{131072, 0.073}};

constexpr std::string_view prefill_source =
    "time to first token with the whole context in the GPU already: LLaMA-3.1-8B, vLLM 0.26, one H100, one "
    "request, at 16k, 32k, 64k and 128k tokens; straight lines between, below the first; used for all models";

// Six digits are more than any measurement here is good for.
double rounded(double value) { return std::round(value * 1e6) / 1e6; }

nlohmann::ordered_json known(const std::optional<double>& value) {
  return value ? nlohmann::ordered_json(rounded(*value)) : nlohmann::ordered_json(nullptr);
}

nlohmann::ordered_json to_json(const LongdocDevice& device) {
  nlohmann::ordered_json json;
  json["name"] = device.name;
  json["bytes"] = device.bytes;
  json["share"] = rounded(device.share);
  json["planned_share"] = known(device.planned_share);
  json["busy_fraction"] = rounded(device.busy_fraction);
  json["limit_gbps"] = rounded(device.limit_gbps);
  json["requests_s"] = known(device.requests_s);
  json["busy_over_time"] = nlohmann::ordered_json::array();
  for (const double fraction : device.busy_over_time) {
    json["busy_over_time"].push_back(std::round(fraction * 1e3) / 1e3);
  }
  return json;
}

nlohmann::ordered_json to_json(const ThreadCalls& thread) {
  const auto seconds = [&](CallKind kind) {
    return rounded(std::chrono::duration<double>(thread.of(kind).time).count());
  };
  const ThreadCalls::Count& wait = thread.of(CallKind::wait);
  const ThreadCalls::Count& idle = thread.of(CallKind::idle);
  return {{"name", thread.name},
          {"io_calls", thread.of(CallKind::io).calls},
          {"io_s", seconds(CallKind::io)},
          {"sleeps", wait.calls + idle.calls},
          {"wait_s", seconds(CallKind::wait)},
          {"idle_s", seconds(CallKind::idle)},
          {"messages", thread.of(CallKind::message).calls},
          {"message_s", seconds(CallKind::message)}};
}

void add_calls(const std::optional<LongdocCalls>& calls, nlohmann::ordered_json& json) {
  for (const char* name : {"blocked_s", "idle_s", "io_calls", "other_calls"}) json[name] = nullptr;
  json["threads"] = nlohmann::ordered_json::array();
  if (!calls) return;
  json["blocked_s"] = rounded(calls->blocked_s);
  json["idle_s"] = rounded(calls->idle_s);
  json["io_calls"] = calls->io_calls;
  json["other_calls"] = calls->other_calls;
  for (const ThreadCalls& thread : calls->threads) json["threads"].push_back(to_json(thread));
}

nlohmann::ordered_json to_json(const LongdocRow& row) {
  nlohmann::ordered_json json;
  json["system"] = row.system;
  json["model"] = row.model;
  json["tokens"] = row.tokens;
  json["concurrency"] = row.concurrency;
  json["seconds_min"] = rounded(row.seconds_min);
  json["seconds_p50"] = rounded(row.seconds_p50);
  json["seconds_max"] = rounded(row.seconds_max);
  json["gbps"] = rounded(row.gbps);
  json["limit_gbps"] = rounded(row.limit_gbps);
  json["fraction_of_limit"] = rounded(row.fraction_of_limit);
  json["store_gbps"] = rounded(row.store_gbps);
  json["ttft_s"] = rounded(row.ttft_s);
  json["cpu_user_s"] = rounded(row.cpu_user_s);
  json["cpu_system_s"] = rounded(row.cpu_system_s);
  json["device_s"] = known(row.device_s);
  json["device_s_from"] = nullptr;
  if (row.device_s) json["device_s_from"] = row.device_s_by_kernel ? "kernel" : "requests";
  add_calls(row.calls, json);
  json["spilled_bytes"] = row.spilled_bytes;
  json["wrong_blocks"] = row.wrong_blocks;
  json["busy_bin_s"] = rounded(row.busy_bin_s);
  json["devices"] = nlohmann::ordered_json::array();
  for (const LongdocDevice& device : row.devices) json["devices"].push_back(to_json(device));
  return json;
}

std::string shares(const LongdocRow& row) {
  std::string text;
  for (const LongdocDevice& device : row.devices) {
    text += fmt::format("{}{} {:.0f}%", text.empty() ? "" : ", ", device.name, device.share * 100);
  }
  return text;
}

}  // namespace

double question_prefill_s(uint64_t tokens) {
  const auto at = static_cast<double>(tokens);
  if (at <= prefill_points.front().tokens) return prefill_points.front().seconds;
  for (size_t i = 1; i < prefill_points.size(); ++i) {
    const PrefillPoint& left = prefill_points[i - 1];
    const PrefillPoint& right = prefill_points[i];
    if (at > right.tokens) continue;
    return left.seconds + (right.seconds - left.seconds) * (at - left.tokens) / (right.tokens - left.tokens);
  }
  return prefill_points.back().seconds;
}

nlohmann::ordered_json longdoc_json(const std::vector<LongdocRow>& rows,
                                    const std::vector<LeftOut>& left_out) {
  nlohmann::ordered_json json;
  json["prefill_source"] = prefill_source;
  json["systems"] = nlohmann::ordered_json::array();
  for (const LongdocRow& row : rows) json["systems"].push_back(to_json(row));
  json["left_out"] = nlohmann::ordered_json::array();
  for (const LeftOut& out : left_out) {
    json["left_out"].push_back({{"system", out.system}, {"because", out.because}});
  }
  return json;
}

std::string longdoc_table(const std::vector<LongdocRow>& rows, const std::vector<LeftOut>& left_out) {
  std::string text;
  const LongdocRow* above = nullptr;
  for (const LongdocRow& row : rows) {
    if (above == nullptr || above->model != row.model || above->tokens != row.tokens) {
      text += fmt::format("{}{}, {} tokens\n", above == nullptr ? "" : "\n", row.model, row.tokens);
      text += fmt::format("  {:<18}{:>3}{:>9}{:>10}{:>9}{:>8}{:>8}{:>7}{:>8}{:>9}{:>10}{:>10}{:>10}  {}\n",
                          "system", "at", "median s", "longest s", "TTFT s", "GB/s", "limit", "of it",
                          "user s", "kernel s", "in I/O s", "I/O calls", "device s", "read from");
    }
    above = &row;
    const auto& calls = row.calls;
    text += fmt::format(
        "  {:<18}{:>3}{:>9.3f}{:>10.3f}{:>9.3f}{:>8.2f}{:>8.2f}{:>6.0f}%{:>8.3f}{:>9.3f}{:>10}{:>10}{:>10}  "
        "{}",
        row.system, row.concurrency, row.seconds_p50, row.seconds_max, row.ttft_s, row.gbps, row.limit_gbps,
        row.fraction_of_limit * 100, row.cpu_user_s, row.cpu_system_s,
        calls ? fmt::format("{:.3f}", calls->blocked_s) : "-",
        calls ? fmt::format("{}", calls->io_calls) : "-",
        row.device_s ? fmt::format("{:.3f}", *row.device_s) : "-", shares(row));
    if (row.spilled_bytes > 0) {
      text += fmt::format("; {:.2f} GB lie elsewhere than planned, for lack of room",
                          static_cast<double>(row.spilled_bytes) / 1e9);
    }
    if (row.wrong_blocks > 0) text += fmt::format("  WRONG BLOCKS: {}", row.wrong_blocks);
    text += '\n';
  }
  text +=
      "median s, longest s, TTFT s: of one question, over all repeats; the rest: of a repeat, all its "
      "questions together, median\n";
  text += fmt::format("TTFT: the median and the question's prefill, {}\n", prefill_source);
  for (const LeftOut& out : left_out) text += fmt::format("left out: {}: {}\n", out.system, out.because);
  return text;
}

}  // namespace kvpool::bench
