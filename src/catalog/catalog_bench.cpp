// catalog_bench: look-ups with pins, stores, eviction and memory, over the number of blocks in the catalog.

#include <benchmark/benchmark.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "base/prng.h"
#include "catalog/catalog.h"

namespace kvpool {
namespace {

constexpr uint32_t run_blocks = 512;
constexpr uint32_t segments = 32;
constexpr uint32_t segment_bytes = 4096;
constexpr size_t devices = 4;

struct Filled {
  std::unique_ptr<Catalog> catalog;
  NamespaceId ns;
  uint64_t blocks = 0;
  bool flat = false;
  std::vector<DeviceId> plan;
  std::vector<uint64_t> sums;
};

BlockKey key_of(uint64_t number) { return {mix64(number + 1), mix64(~number)}; }

void store(Filled& filled, uint64_t number, BlockId& parent) {
  const auto result = filled.catalog->reserve(filled.ns, key_of(number), parent, Phase(0),
                                              static_cast<uint32_t>(number % run_blocks), filled.plan);
  if (result.code != Errc::ok || filled.catalog->commit(result.block, filled.sums) != Errc::ok) std::abort();
  parent = filled.flat ? no_block : result.block;
}

// Chains of run_blocks blocks, as a long context's, in a pool that they fill.
Filled fill(uint64_t blocks, bool flat) {
  Filled filled;
  const uint64_t bytes = blocks * segments * segment_bytes / devices;
  CatalogOptions options{.devices = std::vector<CatalogDevice>(devices, {.size_bytes = bytes + (bytes / 16)}),
                         .blocks_max = static_cast<uint32_t>(blocks),
                         .segments_max = segments,
                         .residences_max = 1};
  auto opened = Catalog::open(options);
  if (!opened) std::abort();
  filled.catalog = std::move(*opened);
  const Geometry geometry{.name = "bench",
                          .block_tokens = 256,
                          .segment_bytes = std::vector<uint32_t>(segments, segment_bytes),
                          .window = {}};
  filled.ns = *filled.catalog->add_namespace(geometry, flat);
  filled.blocks = blocks;
  filled.flat = flat;
  for (uint32_t s = 0; s < segments; ++s) filled.plan.emplace_back(static_cast<uint8_t>(s % devices));
  filled.sums.assign(segments, 7);
  BlockId parent = no_block;
  for (uint64_t i = 0; i < blocks; ++i) {
    if (i % run_blocks == 0) parent = no_block;
    store(filled, i, parent);
  }
  return filled;
}

void match_and_pin(benchmark::State& state, bool flat) {
  Filled filled = fill(static_cast<uint64_t>(state.range(0)), flat);
  Prng prng(1);
  std::vector<BlockKey> keys(run_blocks);
  std::vector<BlockId> out(run_blocks);
  const uint64_t runs = filled.blocks / run_blocks;
  for ([[maybe_unused]] auto _ : state) {
    state.PauseTiming();
    const uint64_t first = prng.below(runs) * run_blocks;
    // Flat blocks are found in any order; at random is the worst one.
    for (uint32_t i = 0; i < run_blocks; ++i) {
      keys[i] = key_of(flat ? prng.below(filled.blocks) : first + i);
    }
    state.ResumeTiming();
    const uint32_t count = filled.catalog->match(filled.ns, no_block, keys, out);
    for (uint32_t i = 0; i < count; ++i) filled.catalog->pin(out[i]);
    state.PauseTiming();
    if (count != run_blocks) std::abort();
    for (uint32_t i = 0; i < count; ++i) filled.catalog->unpin(out[i]);
    state.ResumeTiming();
  }
  state.counters["probes_max"] = filled.catalog->probes_max();
  state.counters["bytes_per_block"] = filled.catalog->bytes_per_block();
}

void match_chain(benchmark::State& state) { match_and_pin(state, false); }
void match_flat_at_random(benchmark::State& state) { match_and_pin(state, true); }

void unpin_run(benchmark::State& state) {
  Filled filled = fill(static_cast<uint64_t>(state.range(0)), false);
  std::vector<BlockKey> keys(run_blocks);
  std::vector<BlockId> out(run_blocks);
  for (uint32_t i = 0; i < run_blocks; ++i) keys[i] = key_of(i);
  if (filled.catalog->match(filled.ns, no_block, keys, out) != run_blocks) std::abort();
  for ([[maybe_unused]] auto _ : state) {
    for (const BlockId block : out) filled.catalog->pin(block);
    for (const BlockId block : out) filled.catalog->unpin(block);
  }
}

// The pool is full, so each store evicts.
void store_with_eviction(benchmark::State& state) {
  Filled filled = fill(static_cast<uint64_t>(state.range(0)), false);
  uint64_t number = filled.blocks;
  BlockId parent = no_block;
  for ([[maybe_unused]] auto _ : state) {
    if (number % run_blocks == 0) parent = no_block;
    store(filled, number++, parent);
  }
  state.counters["evicted_per_store"] = static_cast<double>(filled.catalog->counters().evicted_blocks) /
                                        static_cast<double>(state.iterations());
  state.counters["bytes_per_block"] = filled.catalog->bytes_per_block();
}

void places_of_block(benchmark::State& state) {
  Filled filled = fill(static_cast<uint64_t>(state.range(0)), false);
  std::vector<Place> places(segments);
  std::vector<BlockKey> keys(run_blocks);
  std::vector<BlockId> out(run_blocks);
  for (uint32_t i = 0; i < run_blocks; ++i) keys[i] = key_of(i);
  if (filled.catalog->match(filled.ns, no_block, keys, out) != run_blocks) std::abort();
  uint32_t i = 0;
  for ([[maybe_unused]] auto _ : state) {
    filled.catalog->places(out[i++ % run_blocks], 0, places);
    benchmark::DoNotOptimize(places.data());
  }
}

BENCHMARK(match_chain)->RangeMultiplier(10)->Range(10'000, 10'000'000)->Unit(benchmark::kMicrosecond);
BENCHMARK(match_flat_at_random)
    ->RangeMultiplier(10)
    ->Range(10'000, 10'000'000)
    ->Unit(benchmark::kMicrosecond);
BENCHMARK(unpin_run)->Arg(1'000'000)->Unit(benchmark::kMicrosecond);
BENCHMARK(store_with_eviction)->Arg(10'000)->Arg(1'000'000);
BENCHMARK(places_of_block)->Arg(1'000'000);

}  // namespace
}  // namespace kvpool

BENCHMARK_MAIN();
