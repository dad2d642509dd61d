#include "bench/replay.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <thread>
#include <unordered_set>

#include "base/prng.h"
#include "base/units.h"
#include "bench/payload.h"

namespace kvpool::bench {
namespace {

constexpr uint64_t page_bytes = 4096;

constexpr uint64_t round_up(uint64_t bytes) { return (bytes + page_bytes - 1) / page_bytes * page_bytes; }

BlockKey key_of(uint64_t id) {
  return {mix64(id ^ 0x6b76706f6f6c2e31ULL), mix64(id + 0x9e3779b97f4a7c15ULL)};
}

// The pool answered; that it had less, or no room, is not its failure.
bool is_answer(Errc code) { return code == Errc::ok || code == Errc::miss || code == Errc::rejected; }

// How long at least one of several tickets, given in the order of submission, was under way.
class BusyTime {
 public:
  void add(const Outcome& outcome) {
    const Nanos begin = std::max(outcome.submitted_at, until_);
    if (outcome.result_at <= begin) return;
    total_ += outcome.result_at - begin;
    until_ = outcome.result_at;
  }
  void report(std::vector<double>& milliseconds) const {
    if (total_ > Nanos{0}) milliseconds.push_back(std::chrono::duration<double, std::milli>(total_).count());
  }

 private:
  Nanos until_{0};
  Nanos total_{0};
};

// Room in the consumer's region for one ticket. The addresses never change.
struct Lane {
  std::span<kvpool_key> keys;
  std::span<uint64_t> addresses;  // [blocks][segments]
  std::span<std::byte> data;
  Ticket ticket;
  uint32_t blocks = 0;  // of the ticket
};

// What a run has delivered so far; it ends at its first gap.
struct Delivery {
  std::span<const uint64_t> ids;
  uint64_t blocks = 0;
  bool whole = true;
};

class Replayer {
 public:
  Replayer(Consumer consumer, NamespaceId ns, bool chained, const Trace& trace, const ReplayOptions& options)
      : consumer_(std::move(consumer)), ns_(ns), chained_(chained), trace_(trace), options_(options) {}

  Status open();
  [[nodiscard]] Result<ReplayReport> run();

 private:
  using Ids = std::span<const uint64_t>;

  [[nodiscard]] Status add_lane();
  void pace(Nanos begin, uint64_t timestamp_ms) const;
  [[nodiscard]] Status play(const TraceRequest& request);
  [[nodiscard]] Status hold(kvpool_pin pin);

  [[nodiscard]] Result<Outcome> match(Ids ids, uint64_t first, uint32_t flags);
  [[nodiscard]] Result<uint64_t> retrieve(Ids ids);
  [[nodiscard]] Result<uint64_t> deliver(Ids run, BusyTime& busy);
  [[nodiscard]] Status collect_delivery(Lane& lane, Delivery& delivery, BusyTime& busy);
  [[nodiscard]] bool is_right(const Lane& lane, uint32_t block, const BlockKey& key, bool with_window) const;

  [[nodiscard]] Status find_missing(Ids ids, uint64_t first);
  [[nodiscard]] Status store(Ids ids, uint64_t hits);
  [[nodiscard]] Result<Ticket> submit_store(Lane& lane, Ids ids, uint64_t first_index);
  void fill(Lane& lane, Ids ids, std::span<const uint64_t> indices);
  [[nodiscard]] Status collect_store(Lane& lane, BusyTime& busy, bool& whole);
  [[nodiscard]] Result<uint32_t> count_stored(std::span<const kvpool_key> keys);

  [[nodiscard]] std::span<std::byte> segment(const Lane& lane, uint32_t block, uint32_t number) const {
    return lane.data.subspan(block * stride_bytes_ + offsets_[number],
                             options_.geometry.segment_bytes[number]);
  }

  Consumer consumer_;
  NamespaceId ns_;
  bool chained_;
  const Trace& trace_;
  const ReplayOptions& options_;
  ReplayReport report_;
  std::vector<uint64_t> offsets_;  // of segments in a lane's block
  uint64_t stride_bytes_ = 0;      // from block to block in a lane
  uint32_t window_ = 0;            // blocks of a lane
  std::span<kvpool_key> match_keys_;
  std::vector<Lane> lanes_;  // one or two: where there are two, one is filled or compared while the other
                             // is under way
  kvpool_pin pin_ = 0;
  std::vector<uint64_t> missing_;  // indices into the ids of the request at hand
};

// Divides the region: keys to match with, then the lanes.
Status Replayer::open() {
  for (const uint32_t bytes : options_.geometry.segment_bytes) {
    offsets_.push_back(stride_bytes_);
    stride_bytes_ += round_up(bytes);
  }
  uint64_t longest = 1;
  for (const TraceRequest& request : trace_.requests()) longest = std::max(longest, request.blocks());
  const auto segments = options_.geometry.segments();
  const uint64_t limit = std::min<uint64_t>({longest, options_.blocks_max, options_.segments_max / segments});
  if (limit == 0) {
    return fail(Errc::too_large, fmt::format("a block has {} segments, but limits.segments_per_request is {}",
                                             segments, options_.segments_max));
  }
  auto keys = consumer_.allocate_array<kvpool_key>(std::min<uint64_t>(longest, options_.blocks_max));
  if (!keys) return tl::unexpected(keys.error());
  match_keys_ = *keys;
  const uint64_t block_bytes = stride_bytes_ + sizeof(kvpool_key) + segments * sizeof(uint64_t);
  const uint64_t taken = round_up(match_keys_.size_bytes());
  const uint64_t room = consumer_.region_bytes() - std::min(consumer_.region_bytes(), taken);
  for (const uint64_t lanes : {2, 1}) {
    const uint64_t lane_bytes = room / lanes - std::min(room / lanes, 3 * page_bytes);
    window_ = static_cast<uint32_t>(std::min(limit, lane_bytes / block_bytes));
    for (uint64_t i = 0; window_ > 0 && i < lanes; ++i) {
      if (const Status status = add_lane(); !status) return status;
    }
    if (window_ > 0) return {};
  }
  return fail(
      Errc::too_large,
      fmt::format("a block of this replay takes {}, the consumer's region is {}; raise `buffers` in the "
                  "configuration, or take a smaller model or fewer bytes a token",
                  format_bytes(block_bytes), format_bytes(consumer_.region_bytes())));
}

Status Replayer::add_lane() {
  const uint32_t segments = options_.geometry.segments();
  Lane lane;
  auto data = consumer_.allocate(window_ * stride_bytes_);
  if (!data) return tl::unexpected(data.error());
  lane.data = *data;
  auto keys = consumer_.allocate_array<kvpool_key>(window_);
  if (!keys) return tl::unexpected(keys.error());
  lane.keys = *keys;
  auto addresses = consumer_.allocate_array<uint64_t>(static_cast<uint64_t>(window_) * segments);
  if (!addresses) return tl::unexpected(addresses.error());
  lane.addresses = *addresses;
  for (uint32_t block = 0; block < window_; ++block) {
    for (uint32_t s = 0; s < segments; ++s) {
      lane.addresses[block * segments + s] = consumer_.address(segment(lane, block, s).data());
    }
  }
  lanes_.push_back(lane);
  return {};
}

Result<ReplayReport> Replayer::run() {
  const auto& all = trace_.requests();
  const uint64_t count =
      options_.requests_max == 0 ? all.size() : std::min(all.size(), options_.requests_max);
  report_.retrieve_ms.reserve(count);
  report_.store_ms.reserve(count);
  const SteadyClock clock;
  const Nanos begin = clock.now();
  for (uint64_t i = 0; i < count; ++i) {
    pace(begin, all[i].timestamp_ms - all[0].timestamp_ms);
    if (const Status status = play(all[i]); !status) return tl::unexpected(status.error());
    if (options_.progress) options_.progress(i + 1, count);
  }
  report_.seconds = std::chrono::duration<double>(clock.now() - begin).count();
  std::ranges::sort(report_.retrieve_ms);
  std::ranges::sort(report_.store_ms);
  if (const Status status = consumer_.close(); !status) return tl::unexpected(status.error());
  return std::move(report_);
}

// Waits until it is the request's time. One that is late starts at once.
void Replayer::pace(Nanos begin, uint64_t since_first_ms) const {
  if (options_.speed <= 0) return;
  constexpr double seconds_max = 1e9;
  const double seconds = std::min(static_cast<double>(since_first_ms) / 1e3 / options_.speed, seconds_max);
  const Nanos due = begin + std::chrono::duration_cast<Nanos>(std::chrono::duration<double>(seconds));
  std::this_thread::sleep_until(std::chrono::steady_clock::time_point(due));
}

Status Replayer::play(const TraceRequest& request) {
  const Ids ids = trace_.ids(request);
  const auto hits = retrieve(ids);
  if (!hits) return tl::unexpected(hits.error());
  if (const Status status = store(ids, *hits); !status) return status;
  ++report_.requests;
  report_.blocks += ids.size();
  report_.hit_blocks += *hits;
  report_.hit_tokens += std::min(trace_block_tokens * *hits, request.input_tokens);
  return hold(0);
}

// Holds this pin instead of the one before.
Status Replayer::hold(kvpool_pin pin) {
  const kvpool_pin old = std::exchange(pin_, pin);
  if (old == 0) return {};
  const auto outcome = consumer_.run(Request(RequestKind::unpin, ns_).pin(old));
  if (!outcome) return tl::unexpected(outcome.error());
  return {};
}

// The run of stored blocks that begins with ids[first].
Result<Outcome> Replayer::match(Ids ids, uint64_t first, uint32_t flags) {
  const Ids asked = ids.subspan(first, std::min(ids.size() - first, match_keys_.size()));
  std::ranges::transform(asked, match_keys_.begin(), [](uint64_t id) { return to_api(key_of(id)); });
  Request request(RequestKind::match, ns_);
  request.keys(match_keys_.first(asked.size())).flags(flags);
  if (chained_ && first > 0) request.parent(to_api(key_of(ids[first - 1])));
  return consumer_.run(request);
}

// How many leading blocks the pool delivered. Holds the pin of the last part: its blocks' ancestors cannot go
// before they do.
Result<uint64_t> Replayer::retrieve(Ids ids) {
  BusyTime busy;
  uint64_t hits = 0;
  while (hits < ids.size()) {
    const auto matched = match(ids, hits, KVPOOL_PIN);
    if (!matched) return tl::unexpected(matched.error());
    if (!is_answer(matched->code)) ++report_.failed_requests;
    if (matched->blocks == 0) break;
    busy.add(*matched);
    if (const Status status = hold(matched->pin); !status) return tl::unexpected(status.error());
    const auto delivered = deliver(ids.subspan(hits, matched->blocks), busy);
    if (!delivered) return tl::unexpected(delivered.error());
    hits += *delivered;
    if (*delivered < matched->blocks || matched->blocks < match_keys_.size()) break;
  }
  busy.report(report_.retrieve_ms);
  return hits;
}

Result<uint64_t> Replayer::deliver(Ids run, BusyTime& busy) {
  Delivery delivery{.ids = run};
  size_t turn = 0;
  for (uint64_t first = 0; first < run.size() && delivery.whole; first += window_, ++turn) {
    Lane& lane = lanes_[turn % lanes_.size()];
    if (const Status status = collect_delivery(lane, delivery, busy); !status) {
      return tl::unexpected(status.error());
    }
    lane.blocks = static_cast<uint32_t>(std::min<uint64_t>(window_, run.size() - first));
    Request request(RequestKind::retrieve, ns_);
    request.pinned(pin_, static_cast<uint32_t>(first), lane.blocks).buffers(lane.addresses);
    const auto ticket = consumer_.submit(request);
    if (!ticket) return tl::unexpected(ticket.error());
    lane.ticket = *ticket;
  }
  for (size_t i = 0; i < lanes_.size(); ++i) {
    const Status status = collect_delivery(lanes_[(turn + i) % lanes_.size()], delivery, busy);
    if (!status) return tl::unexpected(status.error());
  }
  return delivery.blocks;
}

// Waits for the lane's ticket, where it has one, and compares what came.
Status Replayer::collect_delivery(Lane& lane, Delivery& delivery, BusyTime& busy) {
  if (!lane.ticket.valid()) return {};
  const auto outcome = consumer_.finish(std::exchange(lane.ticket, {}));
  if (!outcome) return tl::unexpected(outcome.error());
  busy.add(*outcome);
  if (!is_answer(outcome->code)) ++report_.failed_requests;
  if (!delivery.whole) return {};
  report_.bytes_read += outcome->bytes;
  delivery.whole = outcome->blocks == lane.blocks;
  for (uint32_t block = 0; block < outcome->blocks; ++block) {
    // A window segment comes with the last block of what was asked.
    const bool last = block + 1 == lane.blocks;
    if (!is_right(lane, block, key_of(delivery.ids[delivery.blocks++]), last)) ++report_.wrong_blocks;
    consumer_.poll();  // so that the other lane's result is seen when it comes
  }
  return {};
}

bool Replayer::is_right(const Lane& lane, uint32_t block, const BlockKey& key, bool with_window) const {
  for (uint32_t s = 0; s < options_.geometry.segments(); ++s) {
    if (options_.geometry.is_window(s) && !with_window) continue;
    if (!payload_equals(segment(lane, block, s), key, s)) return false;
  }
  return true;
}

// Which ids from ids[first] on have to be stored. In a chain nothing is stored behind a gap; elsewhere each
// is looked for, and one that the request names twice is stored once.
Status Replayer::find_missing(Ids ids, uint64_t first) {
  missing_.clear();
  std::unordered_set<uint64_t> seen;
  for (uint64_t i = first; i < ids.size();) {
    if (!chained_) {
      const auto matched = match(ids, i, 0);
      if (!matched) return tl::unexpected(matched.error());
      i += matched->blocks;
      if (matched->blocks > 0) continue;
    }
    if (chained_ || seen.insert(ids[i]).second) missing_.push_back(i);
    ++i;
  }
  return {};
}

// Stores what is missing, window after window: the next one is filled while the one before is under way, but
// sent only when that is visible, because its first block follows it.
Status Replayer::store(Ids ids, uint64_t hits) {
  if (const Status status = find_missing(ids, hits); !status) return status;
  BusyTime busy;
  bool whole = true;
  size_t turn = 0;
  for (uint64_t first = 0; first < missing_.size(); first += window_, ++turn) {
    if (chained_ && !whole) {
      // Nothing can follow a block that is not there.
      report_.rejected_blocks += missing_.size() - first;
      break;
    }
    Lane& lane = lanes_[turn % lanes_.size()];
    if (const Status status = collect_store(lane, busy, whole); !status) return status;
    const uint64_t count = std::min<uint64_t>(window_, missing_.size() - first);
    fill(lane, ids, std::span(missing_).subspan(first, count));
    for (Lane& other : lanes_) {
      if (const Status status = collect_store(other, busy, whole); !status) return status;
    }
    if (chained_ && !whole) {
      report_.rejected_blocks += missing_.size() - first;
      break;
    }
    const auto ticket = submit_store(lane, ids, missing_[first]);
    if (!ticket) return tl::unexpected(ticket.error());
    lane.ticket = *ticket;
  }
  for (Lane& lane : lanes_) {
    if (const Status status = collect_store(lane, busy, whole); !status) return status;
  }
  busy.report(report_.store_ms);
  return {};
}

Result<Ticket> Replayer::submit_store(Lane& lane, Ids ids, uint64_t first_index) {
  Request request(RequestKind::store, ns_);
  request.keys(lane.keys.first(lane.blocks)).buffers(lane.addresses);
  if (chained_ && first_index > 0) request.parent(to_api(key_of(ids[first_index - 1])));
  return consumer_.submit(request);
}

void Replayer::fill(Lane& lane, Ids ids, std::span<const uint64_t> indices) {
  lane.blocks = static_cast<uint32_t>(indices.size());
  for (uint32_t block = 0; block < lane.blocks; ++block) {
    const BlockKey key = key_of(ids[indices[block]]);
    lane.keys[block] = to_api(key);
    for (uint32_t s = 0; s < options_.geometry.segments(); ++s) fill_payload(segment(lane, block, s), key, s);
    consumer_.poll();
  }
}

Status Replayer::collect_store(Lane& lane, BusyTime& busy, bool& whole) {
  if (!lane.ticket.valid()) return {};
  const auto outcome = consumer_.finish(std::exchange(lane.ticket, {}));
  if (!outcome) return tl::unexpected(outcome.error());
  busy.add(*outcome);
  uint32_t stored = outcome->blocks;
  if (stored < lane.blocks) {
    whole = false;
    if (!chained_) {
      // Blocks that stand alone may have found room behind one that did not.
      const auto more = count_stored(lane.keys.subspan(stored, lane.blocks - stored));
      if (!more) return tl::unexpected(more.error());
      stored += *more;
    }
  }
  report_.stored_blocks += stored;
  report_.bytes_written += stored * options_.geometry.block_bytes();
  if (is_answer(outcome->code)) {
    report_.rejected_blocks += lane.blocks - stored;
  } else {
    ++report_.failed_requests;
  }
  return {};
}

Result<uint32_t> Replayer::count_stored(std::span<const kvpool_key> keys) {
  uint32_t stored = 0;
  for (size_t i = 0; i < keys.size(); ++i) {
    const auto found = consumer_.run(Request(RequestKind::match, ns_).keys(keys.subspan(i, 1)));
    if (!found) return tl::unexpected(found.error());
    stored += found->blocks;
  }
  return stored;
}

}  // namespace

Result<Geometry> replay_geometry(const std::string& model) {
  auto geometry = preset_geometry(model);
  if (!geometry) return geometry;
  for (uint32_t& bytes : geometry->segment_bytes) {
    bytes = static_cast<uint32_t>(bytes * trace_block_tokens / geometry->block_tokens);
  }
  geometry->block_tokens = trace_block_tokens;
  geometry->name = "replay-" + model;
  return geometry;
}

Result<Geometry> replay_geometry(uint64_t bytes_per_token) {
  constexpr uint32_t segments = 4;
  constexpr uint64_t bytes_per_token_max =
      (1ULL << 30) * segments / trace_block_tokens;  // a segment of 1 GiB
  if (bytes_per_token == 0 || bytes_per_token > bytes_per_token_max) {
    return fail(Errc::invalid_argument,
                fmt::format("{} bytes a token is not from 1 to {}", bytes_per_token, bytes_per_token_max));
  }
  return uniform_geometry(fmt::format("replay-{}-bytes-a-token", bytes_per_token), trace_block_tokens,
                          bytes_per_token, segments, page_bytes);
}

Result<ReplayReport> replay(Pool& pool, const Trace& trace, const ReplayOptions& options) {
  const bool chained = trace.is_chained();
  const auto ns = pool.open_namespace(options.geometry, !chained);
  if (!ns) return tl::unexpected(ns.error());
  auto consumer = Consumer::open(pool, "replay", options.region_bytes);
  if (!consumer) return tl::unexpected(consumer.error());
  const kvpool_stats before = pool.stats();
  Replayer replayer(std::move(*consumer), *ns, chained, trace, options);
  if (const Status status = replayer.open(); !status) return tl::unexpected(status.error());
  auto report = replayer.run();
  if (!report) return report;
  const kvpool_stats after = pool.settled_stats();
  report->evicted_blocks = after.evicted_blocks - before.evicted_blocks;
  report->bounced_bytes = after.bounced_bytes - before.bounced_bytes;
  return report;
}

}  // namespace kvpool::bench
