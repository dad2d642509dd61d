// kvpool_probe(): the devices of a configuration, measured.

#include <fmt/format.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "api/compose.h"
#include "api/options.h"
#include "api/read_config.h"
#include "api/report.h"
#include "kvpool/kvpool.h"
#include "probe/profile_file.h"

namespace kvpool {
namespace {

using nlohmann::ordered_json;

constexpr uint64_t default_per_device_us = 10'000'000;
constexpr uint64_t longest_us = 3'600'000'000;

ordered_json to_json(const std::vector<ProbePoint>& points) {
  ordered_json out = ordered_json::array();
  for (const ProbePoint& point : points) {
    out.push_back({{"kind", point.kind == IoKind::read ? "read" : "write"},
                   {"size_bytes", point.size_bytes},
                   {"queue_depth", point.queue_depth},
                   {"bytes_per_second", point.bytes_per_second},
                   {"latency_ns_p50", point.latency_median.count()}});
  }
  return out;
}

// The profile as its file has it, with the points of the sweep.
std::string to_json(const ProbeResult& result, const std::string& saved_as) {
  ordered_json whole = ordered_json::parse(to_json(result.profile));
  whole["profile"] = saved_as.empty() ? ordered_json(nullptr) : ordered_json(saved_as);
  for (size_t i = 0; i < result.points.size(); ++i) whole["devices"][i]["points"] = to_json(result.points[i]);
  return whole.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

Result<ProbeResult> measure(const Config& config, const kvpool_probe_options& asked) {
  auto set = DeviceSet::take_memory(config);
  if (!set) return tl::unexpected(set.error());
  const SteadyClock clock;
  const uint64_t per_device_us = asked.per_device_us == 0 ? default_per_device_us : asked.per_device_us;
  return probe_devices(config, **set, clock,
                       {.per_device = std::chrono::microseconds(per_device_us),
                        .together = std::chrono::microseconds(asked.together_us),
                        .sweep = asked.sweep == 1});
}

kvpool_status give_text(const std::string& text, char* json, size_t capacity, size_t* needed,
                        kvpool_error* error) {
  if (needed != nullptr) *needed = text.size() + 1;
  if (capacity > text.size()) {
    text.copy(json, text.size());
    json[text.size()] = '\0';
    return KVPOOL_OK;
  }
  return report(
      Errc::too_large,
      fmt::format("kvpool_probe: the result takes {} bytes, there is room for {}", text.size() + 1, capacity),
      error);
}

}  // namespace
}  // namespace kvpool

extern "C" kvpool_status kvpool_probe(const kvpool_options* options,
                                      const kvpool_probe_options* probe_options, char* json, size_t capacity,
                                      size_t* needed, kvpool_error* error) {
  using namespace kvpool;
  return guarded(error, [&] {
    kvpool_options where;
    kvpool_probe_options asked;
    if (!take_struct(options, where) || !take_struct(probe_options, asked) || json == nullptr ||
        capacity == 0) {
      return bad("kvpool_probe: bad arguments", error);
    }
    json[0] = '\0';
    if (asked.per_device_us > longest_us || asked.together_us > longest_us || asked.sweep > 1 ||
        asked.save > 1) {
      return bad("kvpool_probe: a time is above an hour, or a flag is neither 0 nor 1", error);
    }
    const auto config = read_config(where);
    if (!config) return report(config.error(), error);
    if (asked.save == 1 && config->profile_path.empty()) {
      return bad("kvpool_probe: the configuration names no profile to save to", error);
    }
    if (asked.save == 1) {
      if (const Status writable = check_profile_target(config->profile_path); !writable) {
        return report(writable.error(), error);
      }
    }
    const auto result = measure(*config, asked);
    if (!result) return report(result.error(), error);
    if (asked.save == 1) {
      if (const Status saved = save_profile(config->profile_path, result->profile); !saved) {
        return report(saved.error(), error);
      }
    }
    return give_text(to_json(*result, asked.save == 1 ? config->profile_path : ""), json, capacity, needed,
                     error);
  });
}
