#include "world.h"

#include <fmt/format.h>

#include <algorithm>

#include "actor.h"

namespace kvpool::sim {
namespace {

constexpr uint32_t stuck_after_ms = 400;

Geometry random_geometry(Prng& prng, const std::string& name) {
  Geometry geometry{.name = name, .block_tokens = 256, .segment_bytes = {}, .window = {}};
  const auto segments = static_cast<uint32_t>(prng.between(1, 8));
  const bool odd = prng.chance(0.3);
  const auto bytes = static_cast<uint32_t>(odd ? prng.between(1, 9000) : 4096 * prng.between(1, 2));
  geometry.segment_bytes.assign(segments, bytes);
  if (prng.chance(0.4)) {
    geometry.window.assign(segments, false);
    for (uint32_t s = 0; s < segments; s += 2) {
      geometry.window[s] = true;
      geometry.segment_bytes[s] = std::max(1U, bytes / 2);
    }
  }
  return geometry;
}

}  // namespace

World::World(WorldOptions options) : options_(options) {
  Prng prng(options.seed);
  verify_ = prng.chance(0.6) ? Verify::always : prng.chance(0.7) ? Verify::storage : Verify::none;
  make_devices(prng);
  make_engine(prng);
  for (uint32_t i = 0; i < options.actors; ++i) {
    actors_.push_back(std::make_unique<Actor>(*this, i, prng.next(), options.jobs_per_actor));
  }
}

World::~World() = default;

FaultOptions World::random_faults(Prng& prng, bool verified) const {
  FaultOptions faults;
  faults.seed = prng.next();
  if (!options_.faults) return faults;
  faults.fail = prng.chance(0.5) ? 0.01 : 0;
  faults.short_io = prng.chance(0.5) ? 0.01 : 0;
  faults.corrupt = prng.chance(0.5) && verified ? 0.01 : 0;
  faults.corrupt_media = prng.chance(0.5);
  faults.late = prng.chance(0.5) ? 0.02 : 0;
  faults.late_by = std::chrono::milliseconds(20);
  faults.stuck = prng.chance(0.3) ? 0.003 : 0;
  return faults;
}

void World::make_devices(Prng& prng) {
  const auto count = static_cast<uint32_t>(prng.between(1, 6));
  for (uint32_t i = 0; i < count; ++i) {
    SimDeviceOptions device;
    device.name = fmt::format("sim{}", i);
    device.in_place = prng.chance(0.4);
    device.storage = !device.in_place;
    device.size_bytes = 4096 * prng.between(60, 300);
    device.read_bytes_per_second = 1e8 * static_cast<double>(prng.between(1, 16));
    device.write_bytes_per_second = 1e8 * static_cast<double>(prng.between(1, 16));
    device.latency = Nanos(prng.between(1'000, 200'000));
    device.jitter = prng.unit();
    device.queue_depth_max = static_cast<uint32_t>(prng.between(1, 32));
    // Some want their transfers in pieces.
    device.transfer_bytes_max = device.in_place || prng.chance(0.7) ? 1 << 20 : 8192;
    // Some have larger sectors.
    if (!device.in_place && prng.chance(0.2)) device.alignment_bytes = 8192;
    device.discards = !device.in_place && prng.chance(0.5);
    device.discard_latency = Nanos(prng.between(1'000, 2'000'000));
    device.seed = prng.next();
    const bool verified = verify_ == Verify::always || (verify_ == Verify::storage && !device.in_place);
    const FaultOptions faults = random_faults(prng, verified);
    auto sim = std::make_unique<SimDevice>(clock_, device);
    if (device.in_place) {
      memory_rots_ |= faults.corrupt > 0 && faults.corrupt_media;
      pool_memory_.emplace_back(sim->bytes());
    }
    faulty_.push_back(std::make_unique<FaultDevice>(std::move(sim), faults, clock_));
  }
}

void World::make_engine(Prng& prng) {
  CatalogOptions catalog;
  EngineOptions options;
  Engine::Wiring wiring;
  for (const auto& device : faulty_) {
    const DeviceLimits limits = device->limits();
    options.profile.devices.push_back(
        {.name = device->name(),
         .read_bytes_per_second = 1e8 * static_cast<double>(prng.between(1, 16)),
         .queue_bytes = 4096 * prng.between(4, 64),
         .storage = limits.storage});
    wiring.devices.push_back(device.get());
    // Too little for many parts at once: waiting for staging is part of the test.
    auto& staging = staging_.emplace_back(limits.in_place ? 0 : 4096 * prng.between(8, 24) + 4096);
    std::span<std::byte> aligned(staging);
    if (!staging.empty()) {
      const size_t skip = (4096 - reinterpret_cast<uintptr_t>(staging.data()) % 4096) % 4096;
      aligned = aligned.subspan(skip, (staging.size() - skip) / 4096 * 4096);
    }
    wiring.staging.push_back(aligned);
  }
  options.shares = planned_shares(PlacementRule::bandwidth, options.profile);
  catalog.devices = Engine::catalog_devices(wiring.devices, options.shares);
  catalog.blocks_max = static_cast<uint32_t>(prng.between(20, 400));
  catalog.segments_max = 8;
  catalog.residences_max = 2;
  auto opened = Catalog::open(catalog);
  if (!opened) return fail(opened.error().message);
  catalog_ = std::move(*opened);
  SimTransferOptions transfer{.workers = static_cast<uint32_t>(prng.between(1, 4)),
                              .copy_bytes_per_second = 1e9 * static_cast<double>(prng.below(4)),
                              .sum_bytes_per_second = 1e9 * static_cast<double>(prng.below(4)),
                              .queue_depth_max = static_cast<uint32_t>(prng.between(1, 32))};
  transfer_ = std::make_unique<SimTransfer>(clock_, transfer);
  options.tickets_max = static_cast<uint32_t>(prng.between(2, 12));
  options.pins_max = 8;
  options.blocks_per_request_max = 64;
  options.segments_per_request_max = 128;
  options.verify = verify_;
  options.stall_warning = std::chrono::hours(1);
  wiring.clock = &clock_;
  wiring.catalog = catalog_.get();
  wiring.transfer = transfer_.get();
  engine_ = std::make_unique<Engine>(wiring, options);
  const auto namespaces = static_cast<uint32_t>(prng.between(1, 3));
  for (uint32_t i = 0; i < namespaces; ++i) {
    const bool flat = prng.chance(0.3);
    if (const auto added = engine_->add_namespace(random_geometry(prng, fmt::format("ns{}", i)), flat);
        added) {
      flat_.push_back(flat);
    } else {
      fail(added.error().message);
    }
  }
}

BlockKey World::key(NamespaceId ns, uint32_t chain, uint32_t depth) const {
  const uint32_t shared = depth < 3 ? chain / 2 : chain + 100;
  return {mix64(options_.seed + shared), mix64((uint64_t{ns.value} << 32) + depth)};
}

bool World::is_pool_memory(const std::byte* place, uint64_t bytes) const {
  return std::ranges::any_of(pool_memory_, [&](std::span<const std::byte> memory) {
    return place >= memory.data() && place + bytes <= memory.data() + memory.size();
  });
}

void World::fail(std::string what) {
  if (failure_.empty()) {
    failure_ = fmt::format("seed {} at {} us: {}", options_.seed, clock_.now().count() / 1000, what);
  }
}

bool World::all_done() const {
  return engine_->is_idle() &&
         std::ranges::all_of(actors_, [](const auto& actor) { return actor->is_done(); });
}

void World::free_stuck_requests() {
  for (const auto& device : faulty_) device->release_stuck();
}

std::string World::run() {
  if (!failure_.empty()) return failure_;
  Prng prng(options_.seed ^ 0x5eed);
  free_at_ = std::chrono::milliseconds(stuck_after_ms);
  one_dies_ = actors_.size() > 1 && prng.chance(0.4);
  dies_at_ = Nanos(prng.below(40'000'000));
  if (options_.faults && prng.chance(0.3)) goes_at_ = Nanos(prng.below(20'000'000));
  comings_ = Prng(prng.next());
  run_until([this] { return all_done(); });
  if (failure_.empty() && options_.faults) check_bad_blocks_are_gone();
  if (failure_.empty()) check_home();
  return failure_;
}

void World::run_until(const std::function<bool()>& done) {
  while (failure_.empty() && !done()) {
    bool worked = true;
    while (worked && failure_.empty()) {
      worked = engine_->step();
      for (const auto& actor : actors_) worked |= actor->act();
      if (++rounds_ > 5'000'000) fail("it goes round and round");
    }
    if (one_dies_ && clock_.now() >= dies_at_) actors_[0]->close();
    Nanos next = std::min({engine_->next_event_time(), free_at_, goes_at_});
    for (const auto& actor : actors_) next = std::min(next, actor->next_time());
    if (one_dies_ && !actors_[0]->is_closed()) next = std::min(next, std::max(dies_at_, clock_.now()));
    clock_.advance_to(std::max(clock_.now(), next));
    if (clock_.now() >= goes_at_) goes_at_ = clock_.now() + go_or_come(comings_);
    if (clock_.now() >= free_at_) {
      free_stuck_requests();
      free_at_ = clock_.now() + std::chrono::milliseconds(stuck_after_ms);
    }
    if (clock_.now() > std::chrono::seconds(600)) fail("hung: " + engine_->outstanding());
  }
}

// A device goes away or comes back; until the next time.
Nanos World::go_or_come(Prng& prng) {
  FaultDevice& device = *faulty_[prng.below(faulty_.size())];
  device.online() ? device.go_away() : device.come_back();
  return Nanos(prng.between(100'000, 20'000'000));
}

// Whoever reads a block with wrong bytes is the last to find it: what a sweep through all that is stored has
// found wrong, the next one does not find at all.
void World::check_bad_blocks_are_gone() {
  goes_at_ = never;
  for (const auto& device : faulty_) device->stop_faults();
  Actor& auditor = *actors_.emplace_back(
      std::make_unique<Actor>(*this, static_cast<uint32_t>(actors_.size()), options_.seed, /*jobs=*/0));
  auditor.retrieve_all();
  const uint64_t wrong = engine_->counters().checksum_errors;
  auditor.retrieve_all();
  if (engine_->counters().checksum_errors != wrong) fail("wrong bytes were found again");
}

void World::check_home() {
  for (const auto& actor : actors_) {
    actor->check_poison();
    actor->close();
  }
  for (int i = 0; i < 3; ++i) (void)engine_->step();
  catalog_->check();
  if (engine_->pins().in_use() != 0) fail("pins did not come home");
  if (engine_->staging_used_bytes() != 0) fail("staging did not come home");
  const CatalogUsage usage = catalog_->usage();
  if (usage.writing_blocks != 0) fail("blocks are still being written");
  if (usage.retired_blocks != 0) fail("retired blocks are still held");
  if (!options_.faults) {
    const EngineCounters& counters = engine_->counters();
    if (counters.checksum_errors + counters.io_errors + counters.short_ios != 0)
      fail("errors without faults");
  }
}

}  // namespace kvpool::sim
