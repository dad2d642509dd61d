#include "bench/engine_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "base/prng.h"
#include "bench/client.h"
#include "catalog/catalog.h"

namespace kvpool::bench {
namespace {

constexpr uint32_t devices = 4;
constexpr uint32_t segment_bytes = 4096;  // aligned, so that each is one operation of its device and no copy
constexpr uint32_t segments = 32;
constexpr uint32_t document_blocks = 64;
constexpr uint32_t tickets_each = 2;  // of a consumer: the engine need not wait for the driver
constexpr uint32_t run_blocks = 512;
constexpr uint32_t store_blocks = 4096;

kvpool_key key_of(uint64_t set, uint64_t number) { return {mix64(set + 1), mix64(~number)}; }

Config null_config(uint64_t blocks_max, uint64_t stored_segments, uint64_t buffer_bytes) {
  Config config;
  config.file = "bench engine";
  for (uint32_t i = 0; i < devices; ++i) {
    config.devices.push_back(
        {.kind = DeviceKind::null,
         .size_bytes = std::max<uint64_t>(stored_segments * segment_bytes / 2, 64 << 20)});
  }
  config.verify = VerifyRule::none;
  config.spin = std::chrono::hours(1);
  config.buffer_bytes = buffer_bytes;
  config.limits.blocks = static_cast<uint32_t>(blocks_max);
  fill_defaults(config);
  return config;
}

Result<Pool> open_null_pool(Machine& machine, const Config& config) {
  Profile profile;
  for (const DeviceConfig& device : config.devices) {
    profile.devices.push_back(
        {.name = device.name, .read_bytes_per_second = 1e12, .write_bytes_per_second = 1e12});
  }
  const auto pool = machine.open_pool(config, profile, {});
  if (!pool) return tl::unexpected(pool.error());
  return Pool::adopt(*pool);
}

Geometry geometry_of(uint32_t its_segments) {
  return {.name = "bench",
          .block_tokens = 256,
          .segment_bytes = std::vector<uint32_t>(its_segments, segment_bytes)};
}

Result<Outcome> expect_blocks(Result<Outcome> outcome, uint64_t blocks) {
  if (outcome && outcome->blocks != blocks) {
    return fail(outcome->code, fmt::format("{} blocks of {} came back: {}", outcome->blocks, blocks,
                                           to_string(outcome->code)));
  }
  return outcome;
}

// ---- throughput

// A consumer that asks for its document again and again.
class Reader {
 public:
  static Result<Reader> open(Pool& pool, NamespaceId ns, uint32_t number) {
    auto consumer = Consumer::open(pool, fmt::format("reader{}", number), region_bytes);
    if (!consumer) return tl::unexpected(consumer.error());
    Reader reader(std::move(*consumer), ns);
    auto keys = reader.consumer_.allocate_array<kvpool_key>(document_blocks);
    auto buffers = reader.consumer_.allocate_array<uint64_t>(document_blocks * segments);
    auto data = reader.consumer_.allocate(uint64_t{document_blocks} * segments * segment_bytes);
    if (!keys || !buffers || !data) return fail(Errc::too_large, "the consumer's region is too small");
    for (uint32_t i = 0; i < document_blocks; ++i) (*keys)[i] = key_of(number, i);
    for (uint32_t i = 0; i < document_blocks * segments; ++i) {
      (*buffers)[i] = reader.consumer_.address(data->data() + uint64_t{i} * segment_bytes);
    }
    reader.keys_ = *keys;
    reader.buffers_ = *buffers;
    return reader;
  }

  [[nodiscard]] Status store() {
    auto outcome = expect_blocks(consumer_.run(request(RequestKind::store)), document_blocks);
    return outcome ? Status() : tl::unexpected(outcome.error());
  }

  // Takes what has come and asks for more. Returns the segments that came.
  [[nodiscard]] Result<uint64_t> turn(bool ask) {
    uint64_t delivered = 0;
    consumer_.poll();
    for (Ticket& ticket : tickets_) {
      if (ticket.valid() && consumer_.is_released(ticket)) {
        const auto outcome = expect_blocks(consumer_.finish(ticket), document_blocks);
        if (!outcome) return tl::unexpected(outcome.error());
        delivered += uint64_t{document_blocks} * segments;
        ticket = {};
      }
      if (ticket.valid() || !ask) continue;
      const auto sent = consumer_.submit(request(RequestKind::retrieve));
      if (!sent) return tl::unexpected(sent.error());
      ticket = *sent;
    }
    return delivered;
  }
  [[nodiscard]] bool is_idle() const { return std::ranges::none_of(tickets_, &Ticket::valid); }

  static constexpr uint64_t region_bytes = uint64_t{document_blocks} * segments * (segment_bytes + 8) + 16384;

 private:
  Reader(Consumer consumer, NamespaceId ns) : consumer_(std::move(consumer)), ns_(ns) {}
  [[nodiscard]] Request request(RequestKind kind) const {
    return Request(kind, ns_).keys(keys_).buffers(buffers_);
  }

  Consumer consumer_;
  NamespaceId ns_;
  std::span<kvpool_key> keys_;
  std::span<uint64_t> buffers_;
  std::array<Ticket, tickets_each> tickets_;
};

// Segments a second over one window; `delivered_all` grows by what came.
Result<double> read_for(std::vector<Reader>& readers, Nanos window, uint64_t& delivered_all) {
  const SteadyClock clock;
  const Nanos begin = clock.now();
  uint64_t delivered = 0;
  Nanos now = begin;
  while (now - begin < window) {
    for (Reader& reader : readers) {
      const auto came = reader.turn(true);
      if (!came) return tl::unexpected(came.error());
      delivered += *came;
    }
    now = clock.now();
  }
  delivered_all += delivered;
  return static_cast<double>(delivered) / std::chrono::duration<double>(now - begin).count();
}

Status drain(std::vector<Reader>& readers, uint64_t& delivered) {
  while (!std::ranges::all_of(readers, &Reader::is_idle)) {
    for (Reader& reader : readers) {
      const auto came = reader.turn(false);
      if (!came) return tl::unexpected(came.error());
      delivered += *came;
    }
  }
  return {};
}

Status measure_throughput(Machine& machine, const EngineBenchOptions& options,
                          const AllocationCounter& allocations, EngineBenchResult& result) {
  const uint64_t blocks = uint64_t{options.consumers} * document_blocks;
  Config config =
      null_config(blocks + 64, blocks * segments, options.consumers * (Reader::region_bytes + 4096));
  config.limits.consumers = std::max(config.limits.consumers, options.consumers);
  config.limits.tickets = std::max(config.limits.tickets, options.consumers * tickets_each);
  auto pool = open_null_pool(machine, config);
  if (!pool) return tl::unexpected(pool.error());
  const auto ns = pool->open_namespace(geometry_of(segments), false);
  if (!ns) return tl::unexpected(ns.error());
  std::vector<Reader> readers;
  for (uint32_t i = 0; i < options.consumers; ++i) {
    auto reader = Reader::open(*pool, *ns, i);
    if (!reader) return tl::unexpected(reader.error());
    readers.push_back(std::move(*reader));
  }
  std::vector<double> rates(options.windows);
  allocations.start();
  for (Reader& reader : readers) {
    if (Status stored = reader.store(); !stored) return stored;
  }
  uint64_t delivered = 0;
  if (const auto warm = read_for(readers, options.window / 4, delivered); !warm) {
    return tl::unexpected(warm.error());
  }
  for (double& rate : rates) {
    const auto measured = read_for(readers, options.window, delivered);
    if (!measured) return tl::unexpected(measured.error());
    rate = *measured;
  }
  if (Status ended = drain(readers, delivered); !ended) return ended;
  result.allocations += allocations.stop();
  std::ranges::sort(rates);
  result.segments_per_s = rates[rates.size() / 2];
  result.segments_per_s_min = rates.front();
  result.segments_per_s_max = rates.back();
  uint64_t operations = 0;
  for (const kvpool_device_stats& device : pool->device_stats()) operations += device.reads;
  if (operations != delivered) {
    return fail(Errc::invalid_argument,
                fmt::format("{} segments came of {} device operations", delivered, operations));
  }
  return {};
}

// ---- match

// Chains of store_blocks blocks of one segment: a look-up sees no segments.
Status fill(Consumer& consumer, NamespaceId ns, std::span<kvpool_key> keys, std::span<const uint64_t> buffers,
            uint64_t blocks) {
  for (uint64_t first = 0; first < blocks; first += store_blocks) {
    const auto part = keys.first(std::min<uint64_t>(store_blocks, blocks - first));
    for (size_t i = 0; i < part.size(); ++i) part[i] = key_of(0, first + i);
    const auto stored =
        expect_blocks(consumer.run(Request(RequestKind::store, ns).keys(part).buffers(buffers)), part.size());
    if (!stored) return tl::unexpected(stored.error());
  }
  return {};
}

// The time from the call to the poll that brings the result, with pins; the consumer has just written the
// keys.
Result<double> time_match(Consumer& consumer, const Request& request) {
  const auto ticket = consumer.submit(request);
  if (!ticket) return tl::unexpected(ticket.error());
  while (!consumer.is_released(*ticket)) consumer.poll();
  const auto outcome = expect_blocks(consumer.finish(*ticket), run_blocks);
  if (!outcome) return tl::unexpected(outcome.error());
  const auto unpin = consumer.submit(Request(RequestKind::unpin, NamespaceId{}).pin(outcome->pin));
  if (!unpin) return tl::unexpected(unpin.error());
  while (!consumer.is_released(*unpin)) consumer.poll();
  if (const auto unpinned = consumer.finish(*unpin); !unpinned) return tl::unexpected(unpinned.error());
  return std::chrono::duration<double, std::micro>(outcome->latency()).count();
}

// A run of a chain, or flat blocks from anywhere.
Request random_match(NamespaceId ns, Prng& prng, uint32_t blocks, bool at_random,
                     std::span<kvpool_key> keys) {
  Request request(RequestKind::match, ns);
  const uint64_t first = prng.below(blocks / run_blocks) * run_blocks;
  for (uint32_t i = 0; i < run_blocks; ++i) keys[i] = key_of(0, at_random ? prng.below(blocks) : first + i);
  request.keys(keys.first(run_blocks)).flags(KVPOOL_PIN);
  if (!at_random && first % store_blocks != 0) request.parent(key_of(0, first - 1));
  return request;
}

Result<MatchTimes> measure_match(Machine& machine, uint32_t blocks, bool at_random, uint32_t matches,
                                 const AllocationCounter& allocations, EngineBenchResult& result) {
  constexpr uint64_t region_bytes = 1 << 20;
  auto pool = open_null_pool(machine, null_config(blocks + 64, blocks, region_bytes + 4096));
  if (!pool) return tl::unexpected(pool.error());
  const auto ns = pool->open_namespace(geometry_of(1), at_random);
  if (!ns) return tl::unexpected(ns.error());
  auto consumer = Consumer::open(*pool, "matcher", region_bytes);
  if (!consumer) return tl::unexpected(consumer.error());
  const auto keys = consumer->allocate_array<kvpool_key>(store_blocks);
  const auto buffers = consumer->allocate_array<uint64_t>(store_blocks);
  const auto data = consumer->allocate(segment_bytes);
  if (!keys || !buffers || !data) return fail(Errc::too_large, "the consumer's region is too small");
  std::ranges::fill(*buffers, consumer->address(data->data()));
  std::vector<double> times(matches);
  Prng prng(blocks);
  allocations.start();
  if (Status filled = fill(*consumer, *ns, *keys, *buffers, blocks); !filled)
    return tl::unexpected(filled.error());
  for (double& time : times) {
    const auto measured = time_match(*consumer, random_match(*ns, prng, blocks, at_random, *keys));
    if (!measured) return tl::unexpected(measured.error());
    time = *measured;
  }
  result.allocations += allocations.stop();
  std::ranges::sort(times);
  return MatchTimes{.blocks = blocks,
                    .at_random = at_random,
                    .us_min = times.front(),
                    .us_p50 = times[times.size() / 2],
                    .us_p99 = times[times.size() * 99 / 100]};
}

}  // namespace

Result<double> measure_bytes_per_block(uint32_t blocks) {
  const uint64_t each = uint64_t{blocks} * segments * segment_bytes;  // room for anything
  CatalogOptions options{
      .devices = std::vector<CatalogDevice>(devices, {.size_bytes = each, .storage = true}),
      .blocks_max = blocks,
      .segments_max = segments,
      .residences_max = 2};
  const DeviceId memory{0};
  options.devices[memory.value].storage = false;
  auto catalog = Catalog::open(options);
  if (!catalog) return tl::unexpected(catalog.error());
  const auto ns = (*catalog)->add_namespace(geometry_of(segments), false);
  if (!ns) return tl::unexpected(ns.error());
  const Placement placement(std::vector<double>(devices, 1.0 / devices));
  std::array<DeviceId, segments> plan;
  std::array<bool, segments> wanted;
  const std::array<uint64_t, segments> sums{};
  BlockId parent = no_block;
  for (uint32_t i = 0; i < blocks; ++i) {
    const uint32_t depth = i % run_blocks;
    if (depth == 0) parent = no_block;
    const kvpool_key key = key_of(i / run_blocks, i);
    const Phase phase = phase_of_root({key_of(i / run_blocks, i - depth).high, 0});
    placement.plan(phase, depth, plan);
    const auto made = (*catalog)->reserve(*ns, {key.high, key.low}, parent, phase, depth, plan);
    if (made.code != Errc::ok || (*catalog)->commit(made.block, sums) != Errc::ok) {
      return fail(made.code, "the catalog has no room");
    }
    std::ranges::transform(plan, wanted.begin(), [memory](DeviceId device) { return device != memory; });
    (*catalog)->pin(made.block);
    if (!(*catalog)->reserve_second(made.block, memory, wanted)) {
      return fail(Errc::rejected, "the catalog has no room for a second residence");
    }
    (*catalog)->publish_second(made.block);
    (*catalog)->unpin(made.block);
    parent = made.block;
  }
  return (*catalog)->bytes_per_block();
}

Result<EngineBenchResult> run_engine_bench(Machine& machine, const EngineBenchOptions& options,
                                           const AllocationCounter& allocations) {
  EngineBenchResult result;
  if (Status s = measure_throughput(machine, options, allocations, result); !s)
    return tl::unexpected(s.error());
  for (const uint32_t blocks : options.catalog_blocks) {
    for (const bool at_random : {false, true}) {
      const auto times = measure_match(machine, blocks, at_random, options.matches, allocations, result);
      if (!times) return tl::unexpected(times.error());
      result.match.push_back(*times);
    }
  }
  const auto bytes = measure_bytes_per_block(1'000'000);
  if (!bytes) return tl::unexpected(bytes.error());
  result.bytes_per_block = *bytes;
  return result;
}

nlohmann::ordered_json engine_bench_json(const EngineBenchResult& result) {
  nlohmann::ordered_json match = nlohmann::ordered_json::array();
  for (const MatchTimes& times : result.match) {
    match.push_back({{"catalog_blocks", times.blocks},
                     {"at_random", times.at_random},
                     {"us_min", times.us_min},
                     {"us_p50", times.us_p50},
                     {"us_p99", times.us_p99}});
  }
  return {{"segments_per_s", result.segments_per_s},
          {"match_512_us", result.match.back().us_p50},
          {"bytes_per_block", result.bytes_per_block},
          {"allocations_on_data_path", result.allocations},
          {"segments_per_s_min", result.segments_per_s_min},
          {"segments_per_s_max", result.segments_per_s_max},
          {"match", match}};
}

std::string engine_bench_table(const EngineBenchResult& result) {
  std::string text = fmt::format("segments a second            {:>12.0f}   {:.0f} to {:.0f}; bar: 1000000\n",
                                 result.segments_per_s, result.segments_per_s_min, result.segments_per_s_max);
  for (const MatchTimes& times : result.match) {
    text += fmt::format("match of 512 in {:>9} {:>6} {:>8.1f} us   {:.1f} at best, {:.1f} at p99{}\n",
                        times.blocks, times.at_random ? "random" : "chain", times.us_p50, times.us_min,
                        times.us_p99, times.blocks == 1'000'000 ? "; bar: 40" : "");
  }
  text += fmt::format("catalog bytes a block        {:>12.1f}   bar: 256\n", result.bytes_per_block);
  text += fmt::format("allocations on the data path {:>12}   bar: 0\n", result.allocations);
  return text;
}

}  // namespace kvpool::bench
