#include "bench/simulate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>

#include "base/assert.h"
#include "engine/engine.h"
#include "io/sim/sim_device.h"
#include "io/sim/sim_transfer.h"

namespace kvpool::bench {
namespace {

constexpr uint32_t segment_bytes = 1 << 20;
constexpr uint32_t layers = 32;
constexpr double latency_of_ideal_max = 0.01;

// A pool of simulated drives in virtual time, and one consumer. No byte is kept or moved.
class SimulatedPool {
 public:
  SimulatedPool(const SimulatedMix& mix, uint32_t blocks);

  void store(uint32_t document);
  // All documents at once; returns the virtual time.
  [[nodiscard]] Nanos retrieve(uint32_t documents);

 private:
  void make_devices(const SimulatedMix& mix, EngineOptions& options, Engine::Wiring& wiring);
  void open_catalog(const SimulatedMix& mix);
  void lay_out(const SimulatedMix& mix);
  void submit(Op op, uint32_t document);
  void run_until_released(uint32_t tickets);

  uint32_t blocks_;
  VirtualClock clock_;
  std::vector<std::unique_ptr<SimDevice>> devices_;
  std::unique_ptr<std::byte[]> staging_;
  std::unique_ptr<Catalog> catalog_;
  std::unique_ptr<SimTransfer> transfer_;
  std::unique_ptr<Engine> engine_;
  ConsumerPort port_;
  std::vector<BlockKey> keys_;
  std::vector<RegionAddress> buffers_;
  std::vector<std::byte> data_;
};

SimulatedPool::SimulatedPool(const SimulatedMix& mix, uint32_t blocks) : blocks_(blocks) {
  EngineOptions options;
  Engine::Wiring wiring{.clock = &clock_};
  make_devices(mix, options, wiring);
  open_catalog(mix);
  transfer_ = std::make_unique<SimTransfer>(
      clock_, SimTransferOptions{.workers = 1,
                                 .copy_bytes_per_second = mix.link_bytes_per_second,
                                 .queue_depth_max = 256,
                                 .moves_bytes = false});
  options.verify = Verify::none;
  options.deadline = std::chrono::hours(100);
  options.stall_warning = std::chrono::hours(100);
  options.shares = planned_shares(PlacementRule::bandwidth, options.profile);
  options.blocks_per_request_max = blocks;
  options.segments_per_request_max = blocks * layers;
  options.tickets_max = mix.concurrency;
  wiring.catalog = catalog_.get();
  wiring.transfer = transfer_.get();
  engine_ = std::make_unique<Engine>(wiring, options);
  const Geometry geometry{.name = "simulated", .segment_bytes = std::vector<uint32_t>(layers, segment_bytes)};
  const bool added = engine_->add_namespace(geometry, false).has_value();
  KVPOOL_ASSERT(added && engine_->attach(port_) == Errc::ok);
  lay_out(mix);
}

void SimulatedPool::make_devices(const SimulatedMix& mix, EngineOptions& options, Engine::Wiring& wiring) {
  constexpr uint64_t staging_each = 256ULL * segment_bytes;
  const size_t count = mix.device_bytes_per_second.size();
  Prng prng(mix.seed);
  // Never touched: memory is reserved, not taken.
  staging_ = std::make_unique_for_overwrite<std::byte[]>(count * staging_each + 4096);
  std::byte* staging = staging_.get() + (4096 - reinterpret_cast<uintptr_t>(staging_.get()) % 4096) % 4096;
  for (size_t i = 0; i < count; ++i) {
    const double rate = mix.device_bytes_per_second[i];
    const double latency_s = std::chrono::duration<double>(mix.device_latency[i]).count();
    devices_.push_back(std::make_unique<SimDevice>(
        clock_,
        SimDeviceOptions{
            .name = fmt::format("sim{}", i),
            .size_bytes = uint64_t{mix.concurrency} * blocks_ * layers * segment_bytes * 2 + (1ULL << 30),
            .read_bytes_per_second = rate,
            .write_bytes_per_second = rate,
            .latency = mix.device_latency[i],
            .queue_depth_max = 512,
            .keeps_bytes = false,
            .seed = prng.next()}));
    // In flight: what the latency hides, and a few more.
    options.profile.devices.push_back(
        {.name = devices_.back()->name(),
         .read_bytes_per_second = rate,
         .queue_bytes = static_cast<uint64_t>(rate * latency_s) + 4ULL * segment_bytes,
         .storage = true});
    wiring.devices.push_back(devices_.back().get());
    wiring.staging.push_back({staging + i * staging_each, staging_each});
  }
}

void SimulatedPool::open_catalog(const SimulatedMix& mix) {
  CatalogOptions options;
  for (const auto& device : devices_) {
    options.devices.push_back(
        {.size_bytes = device->limits().size_bytes, .alignment_bytes = 4096, .storage = true});
  }
  options.blocks_max = mix.concurrency * blocks_ + 64;
  options.segments_max = layers;
  auto opened = Catalog::open(options);
  KVPOOL_ASSERT(opened.has_value());
  catalog_ = std::move(*opened);
}

// Keys, addresses, and one place where all parts end: nothing is moved.
void SimulatedPool::lay_out(const SimulatedMix& mix) {
  keys_.resize(uint64_t{mix.concurrency} * blocks_);
  for (size_t i = 0; i < keys_.size(); ++i) keys_[i] = {mix64(mix.seed + i / blocks_), i % blocks_};
  data_.resize(segment_bytes + 8192);
  // Where the link bounds, the place is unaligned, so that every part passes a transfer.
  const bool linked = mix.link_bytes_per_second > 0;
  const size_t skip = (4096 - reinterpret_cast<uintptr_t>(data_.data()) % 4096) % 4096 + (linked ? 64 : 0);
  buffers_.assign(uint64_t{blocks_} * layers, RegionAddress((uint64_t{2} << 48) + skip));
  const auto bytes_of = [](auto& vector) { return std::as_writable_bytes(std::span(vector)); };
  const bool regions_fit = port_.regions.add(bytes_of(keys_)) && port_.regions.add(bytes_of(buffers_)) &&
                           port_.regions.add(bytes_of(data_));
  KVPOOL_ASSERT(regions_fit);
}

void SimulatedPool::submit(Op op, uint32_t document) {
  Submission message;
  message.op = op;
  message.slot = static_cast<uint16_t>(document);
  message.blocks = blocks_;
  message.keys = RegionAddress(uint64_t{document} * blocks_ * sizeof(BlockKey));
  message.buffers = RegionAddress(uint64_t{1} << 48);
  const bool pushed = port_.channel.submissions.push(message);
  KVPOOL_ASSERT(pushed);
}

void SimulatedPool::run_until_released(uint32_t tickets) {
  Completion completion;
  while (tickets > 0) {
    const bool worked = engine_->step();
    while (port_.channel.completions.pop(completion)) {
      KVPOOL_ASSERT(completion.code == Errc::ok);
      if (completion.kind == CompletionKind::release) --tickets;
    }
    if (!worked && tickets > 0) clock_.advance_to(std::max(clock_.now(), engine_->next_event_time()));
  }
}

void SimulatedPool::store(uint32_t document) {
  submit(Op::store, document);
  run_until_released(1);
}

Nanos SimulatedPool::retrieve(uint32_t documents) {
  const Nanos start = clock_.now();
  for (uint32_t i = 0; i < documents; ++i) submit(Op::retrieve, i);
  run_until_released(documents);
  return clock_.now() - start;
}

}  // namespace

SimulatedMix simulate_mix(uint64_t seed, uint32_t concurrency, uint32_t segments_on_slowest) {
  Prng prng(seed);
  SimulatedMix mix{
      .seed = seed, .concurrency = concurrency, .device_bytes_per_second = {}, .device_latency = {}};
  const uint64_t count = prng.between(2, 8);
  for (uint64_t i = 0; i < count; ++i) {
    // Ratios spread evenly over 1 to 16 in their logarithm.
    mix.device_bytes_per_second.push_back(1e9 * std::exp2(4 * prng.unit()));
  }
  const auto& rates = mix.device_bytes_per_second;
  const double sum = std::accumulate(rates.begin(), rates.end(), 0.0);
  if (prng.chance(0.3)) mix.link_bytes_per_second = sum * (0.3 + 0.6 * prng.unit());
  const double slowest = std::ranges::min(rates) / sum;
  const auto blocks = static_cast<uint32_t>(std::ceil(segments_on_slowest / slowest / layers));
  mix.segments = blocks * layers;
  const double limit = mix.link_bytes_per_second > 0 ? std::min(mix.link_bytes_per_second, sum) : sum;
  const double ideal = static_cast<double>(mix.segments) * segment_bytes * concurrency / limit;
  for (uint64_t i = 0; i < count; ++i) {
    const std::chrono::duration<double> latency(ideal * latency_of_ideal_max * prng.unit());
    mix.device_latency.push_back(std::chrono::duration_cast<Nanos>(latency));
  }
  SimulatedPool pool(mix, blocks);
  for (uint32_t i = 0; i < concurrency; ++i) pool.store(i);
  mix.fraction = ideal / std::chrono::duration<double>(pool.retrieve(concurrency)).count();
  return mix;
}

SimulateResult simulate(const SimulateOptions& options, const std::function<void(uint32_t)>& progress) {
  SimulateResult result{.mixes = options.mixes, .worst = {}};
  std::vector<double> fractions;
  for (uint32_t i = 0; i < options.mixes; ++i) {
    for (const uint32_t concurrency : {1U, 16U}) {
      SimulatedMix mix = simulate_mix(options.seed + i, concurrency, options.segments_on_slowest);
      fractions.push_back(mix.fraction);
      if (mix.fraction < fraction_bar) ++result.below_bar;
      if (mix.fraction < result.fraction_worst) {
        result.fraction_worst = mix.fraction;
        result.worst = std::move(mix);
      }
    }
    if (progress) progress(i + 1);
  }
  std::ranges::sort(fractions);
  result.fraction_p1 = fractions[fractions.size() / 100];
  result.fraction_p10 = fractions[fractions.size() / 10];
  result.fraction_median = fractions[fractions.size() / 2];
  return result;
}

nlohmann::ordered_json simulate_json(const SimulateResult& result) {
  nlohmann::ordered_json devices = nlohmann::ordered_json::array();
  for (size_t i = 0; i < result.worst.device_bytes_per_second.size(); ++i) {
    devices.push_back(
        {{"bytes_per_second", result.worst.device_bytes_per_second[i]},
         {"latency_us", std::chrono::duration<double, std::micro>(result.worst.device_latency[i]).count()}});
  }
  return {{"mixes", result.mixes},
          {"fraction_worst", result.fraction_worst},
          {"fraction_p1", result.fraction_p1},
          {"fraction_p10", result.fraction_p10},
          {"fraction_median", result.fraction_median},
          {"below_bar", result.below_bar},
          {"worst",
           {{"seed", result.worst.seed},
            {"concurrency", result.worst.concurrency},
            {"segments", result.worst.segments},
            {"link_bytes_per_second", result.worst.link_bytes_per_second},
            {"devices", devices}}}};
}

std::string simulate_table(const SimulateResult& result) {
  const SimulatedMix& worst = result.worst;
  std::string text = fmt::format(
      "{} mixes of devices, each with 1 and with 16 retrieves at once; of min(link, sum of the devices):\n"
      "  worst {:.4f}   p1 {:.4f}   p10 {:.4f}   median {:.4f}   below {:.2f}: {} of {}\n"
      "worst: seed {}, concurrency {}, {} segments a retrieve, link {}\n",
      result.mixes, result.fraction_worst, result.fraction_p1, result.fraction_p10, result.fraction_median,
      fraction_bar, result.below_bar, 2 * result.mixes, worst.seed, worst.concurrency, worst.segments,
      worst.link_bytes_per_second > 0 ? fmt::format("{:.2f} GB/s", worst.link_bytes_per_second / 1e9)
                                      : std::string("does not bound"));
  for (size_t i = 0; i < worst.device_bytes_per_second.size(); ++i) {
    text += fmt::format("  {:6.2f} GB/s, {:8.1f} us\n", worst.device_bytes_per_second[i] / 1e9,
                        std::chrono::duration<double, std::micro>(worst.device_latency[i]).count());
  }
  return text;
}

}  // namespace kvpool::bench
