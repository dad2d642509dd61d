// Replays a trace against a pool, one request after the other: retrieve the longest stored prefix of its ids,
// compare every byte with what was stored, then store the blocks that are missing. Stores are visible before
// the next request begins.
//
// Keys follow from ids alone. Where every id has one predecessor in the trace (Mooncake's ids stand for their
// whole prefix) the namespace is chained and a block's parent is the one before it; else it is flat.
// A request is split into as many tickets as the consumer's region and the pool's limits ask for; the pin of
// what matched is held until the rest is stored.
//
// Thread: the caller's; it opens a consumer of its own. Failure: a request that the pool fails or cuts short
// is counted and the replay goes on; an Error ends it (what does not fit the region, a pool that gives no
// answer).

#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "base/result.h"
#include "bench/client.h"
#include "bench/trace.h"
#include "layout/geometry.h"

namespace kvpool::bench {

// A trace's block in the shape of a preset's: its 256-token geometry scaled to 512 tokens.
[[nodiscard]] Result<Geometry> replay_geometry(const std::string& model);
// Four segments of a block of 512 x bytes_per_token bytes, each rounded up to 4096.
[[nodiscard]] Result<Geometry> replay_geometry(uint64_t bytes_per_token);

struct ReplayOptions {
  Geometry geometry;
  uint64_t requests_max = 0;      // the first so many; 0: all
  double speed = 0;               // multiple of trace time; 0: as fast as possible
  uint64_t region_bytes = 0;      // of the consumer: keys, addresses and data of what is under way
  uint32_t blocks_max = 4096;     // limits.blocks_per_request
  uint32_t segments_max = 32768;  // limits.segments_per_request
  std::function<void(uint64_t done, uint64_t all)> progress;  // called after each request; may be empty
};

struct ReplayReport {
  uint64_t requests = 0;
  uint64_t blocks = 0;           // of all requests, a last partial one counting as one
  uint64_t hit_blocks = 0;       // delivered
  uint64_t hit_tokens = 0;       // min(512 x hits, input length) of each request
  uint64_t stored_blocks = 0;    // not those that a request names twice, nor those that were stored already
  uint64_t rejected_blocks = 0;  // found no room
  uint64_t evicted_blocks = 0;   // by the pool's own count
  uint64_t bounced_bytes = 0;    // the same: copied between a drive's buffer and the consumer's
  uint64_t bytes_read = 0;
  uint64_t bytes_written = 0;
  uint64_t wrong_blocks = 0;     // delivered with other bytes than were stored
  uint64_t failed_requests = 0;  // tickets that ended in an error: a device's, a deadline's
  double seconds = 0;            // making and comparing payload included
  // For each request that retrieved (stored) anything: the time in which at least one of its tickets for that
  // was under way. Ascending.
  std::vector<double> retrieve_ms;
  std::vector<double> store_ms;

  [[nodiscard]] bool is_good() const { return wrong_blocks == 0 && failed_requests == 0; }
};

// REQUIRES: trace is sorted.
[[nodiscard]] Result<ReplayReport> replay(Pool& pool, const Trace& trace, const ReplayOptions& options);

// The value below which a share `rank` (0 to 1) of the values lies, by nearest rank. REQUIRES: ascending, not
// empty.
[[nodiscard]] double percentile(const std::vector<double>& ascending, double rank);

// The keys of docs/cli.md but schema_version. Percentiles of nothing are null.
[[nodiscard]] nlohmann::ordered_json to_json(const ReplayReport& report);
[[nodiscard]] std::string to_text(const ReplayReport& report);

}  // namespace kvpool::bench
