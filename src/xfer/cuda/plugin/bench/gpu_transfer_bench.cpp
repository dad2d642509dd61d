// gpu_transfer_bench: how fast blocks come to and from the pages of a paged KV cache, against the link, which
// is one large copy in the same minute, and against a copy command a piece; other work on the GPU, and
// others' copies, beside it. Progress on stderr; a table and JSON on stdout. Exit status: 0; 1 on a failure;
// 77 without a GPU.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/log.h"
#include "base/median.h"
#include "xfer/cuda/plugin/bench/link.h"
#include "xfer/cuda/plugin/bench/memory.h"
#include "xfer/cuda/plugin/bench/other_copies.h"
#include "xfer/cuda/plugin/bench/runner.h"
#include "xfer/cuda/plugin/bench/sharing.h"
#include "xfer/cuda/plugin/bench/single_copies.h"
#include "xfer/cuda/plugin/bench/workload.h"
#include "xfer/cuda/plugin/cuda_plugin_impl.h"

namespace kvpool {
namespace {

using json = nlohmann::json;
using Clock = std::chrono::steady_clock;

struct Settings {
  int device = 0;
  uint64_t gib = 4;
  int repeats = 5;
  uint32_t seconds = 170;  // for the large transfers
};

struct Variant {
  std::string name;
  size_t part = 1;      // moves so many times fewer bytes, because it is slow
  bool shares = false;  // is measured beside other work
  std::unique_ptr<GpuTransfer> transfer;
};

struct Way {
  std::string name;
  Directions directions;
};

const std::vector<CacheShape> shapes = {
    {.name = "16K", .layers = 32, .page_bytes = 16 << 10, .segment_pages = {16}, .runs = false},
    {.name = "32K", .layers = 32, .page_bytes = 32 << 10, .segment_pages = {16}, .runs = false},
    {.name = "llama64K", .layers = 32, .page_bytes = 64 << 10, .segment_pages = {16}, .runs = false},
    {.name = "gptoss32K", .layers = 24, .page_bytes = 32 << 10, .segment_pages = {8, 16}, .runs = false},
    {.name = "llamaRuns", .layers = 32, .page_bytes = 64 << 10, .segment_pages = {16}, .runs = true},
};
const std::vector<Way> ways = {{"load", {.load = true, .store = false}},
                               {"store", {.load = false, .store = true}},
                               {"both", {.load = true, .store = true}}};

double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

class Bench {
 public:
  explicit Bench(const Settings& settings) : settings_(settings) {}

  [[nodiscard]] Status run() {
    Status good = open();
    if (good) good = measure_large();
    if (good) good = measure_small();
    if (good) good = measure_sharing();
    if (good) good = measure_other_copies();
    if (good) report();
    close();
    return good;
  }

 private:
  void say(const std::string& line) const {
    (void)std::fprintf(stderr, "[%5.1f s] %s\n", since(start_), line.c_str());
  }

  [[nodiscard]] Status open() {
    Status good = open_variants();
    if (!good) return good;
    const uint64_t bytes = settings_.gib << 30;
    say("host memory, 2 x " + std::to_string(settings_.gib) + " GiB");
    good = from_.open(bytes, 1);
    if (good) good = to_.open(bytes, 2);
    const auto before = Clock::now();
    if (good) good = variants_[0].transfer->register_host(from_.bytes());
    if (good) good = variants_[0].transfer->register_host(to_.bytes());
    result_["register_seconds"] = since(before);
    result_["host_huge_bytes"] = HostMemory::huge_bytes();
    if (good) good = make_device_memory(block_, Workload::block_bytes(bytes));
    if (good) good = link_.open();
    if (good) good = sharing_.open(settings_.device);
    if (good) good = other_copies_.open(settings_.device);
    return good ? fill_block() : good;
  }

  // The first one registers memory for both.
  [[nodiscard]] Status open_variants() {
    auto staged = cuda_plugin().open({.device = settings_.device});
    if (!staged) return tl::unexpected(staged.error());
    variants_.push_back({.name = "staged", .shares = true, .transfer = std::move(*staged)});
    if (const cudaError_t error = cudaSetDevice(settings_.device); error != cudaSuccess) {
      return fail_cuda(error, "GPU " + std::to_string(settings_.device));
    }
    auto single = SingleCopies::open();
    if (!single) return tl::unexpected(single.error());
    variants_.push_back({.name = "single", .part = 4, .transfer = std::move(*single)});
    return {};
  }

  // Both halves of the block, so that every page has bytes of its own.
  [[nodiscard]] Status fill_block() {
    for (const auto& host : {from_.bytes(), to_.bytes()}) {
      std::byte* const place = block_.get() + (host.data() == from_.bytes().data() ? 0 : host.size());
      const cudaError_t error = cudaMemcpy(place, host.data(), host.size(), cudaMemcpyHostToDevice);
      if (error != cudaSuccess) return fail_cuda(error, "filling GPU memory");
    }
    return {};
  }

  [[nodiscard]] Workload workload_of(const CacheShape& shape) const {
    return {shape, settings_.gib << 30, from_.bytes(), to_.bytes(), block_.get(), uint64_t{256} << 20};
  }

  [[nodiscard]] Status set_layers(const Workload& workload) {
    for (Variant& variant : variants_) {
      if (Status good = variant.transfer->set_layers(workload.layers()); !good) return good;
    }
    return {};
  }

  [[nodiscard]] Status measure_large() {
    double left = settings_.seconds;
    size_t parts = shapes.size() * ways.size();
    for (const CacheShape& shape : shapes) {
      const Workload workload = workload_of(shape);
      if (Status good = set_layers(workload); !good) return good;
      for (const Way& way : ways) {
        const auto begun = Clock::now();
        if (Status good = measure(workload, way, left / static_cast<double>(parts--)); !good) return good;
        left -= since(begun);
      }
    }
    return {};
  }

  struct Series {
    std::vector<double> gbps, ratio, cpu_ms_per_gb, submit_us;
  };

  // Rounds of the link and of every variant: one, and more until there are enough or the time is up.
  [[nodiscard]] Status measure(const Workload& workload, const Way& way, double seconds) {
    const auto begun = Clock::now();
    std::map<std::string, Series> series;
    std::vector<double> links;
    for (const Variant& variant : variants_) {
      const auto warm =
          run_workload(*variant.transfer, workload, {.directions = way.directions, .batches_max = 1});
      if (!warm) return fail(warm.error().code, variant.name + ": " + warm.error().message);
    }
    double round_seconds = 0;
    for (int i = 0; i < settings_.repeats && (i == 0 || since(begun) + round_seconds / 2 < seconds); ++i) {
      const auto round = Clock::now();
      const auto link = link_.measure(way.directions, from_.bytes(), to_.bytes(), block_.get());
      if (!link) return tl::unexpected(link.error());
      links.push_back(*link * 1e-9);
      for (const Variant& variant : variants_) {
        if (Status good = measure_once(variant, workload, way, *link, series[variant.name]); !good)
          return good;
      }
      round_seconds = since(round);
    }
    keep(workload.shape().name, way.name, links, series);
    return {};
  }

  [[nodiscard]] static Status measure_once(const Variant& variant, const Workload& workload, const Way& way,
                                           double link, Series& series) {
    const size_t batches = workload.batches(GpuDirection::load).size();
    const auto times = run_workload(
        *variant.transfer, workload,
        {.directions = way.directions, .batches_max = std::max<size_t>(batches / variant.part, 1)});
    if (!times) return fail(times.error().code, variant.name + ": " + times.error().message);
    const auto bytes = static_cast<double>(times->bytes);
    series.gbps.push_back(bytes / times->seconds * 1e-9);
    series.ratio.push_back(bytes / times->seconds / link);
    series.cpu_ms_per_gb.push_back(times->cpu_seconds * 1e3 / (bytes * 1e-9));
    series.submit_us.push_back(times->submit_seconds * 1e6 / static_cast<double>(times->batches));
    return {};
  }

  void keep(const std::string& shape, const std::string& way, const std::vector<double>& links,
            const std::map<std::string, Series>& series) {
    json& entry = result_["large"][shape + " " + way];
    entry["link_gbps"] = median(links);
    entry["link_gbps_all"] = links;
    char line[160];
    (void)std::snprintf(line, sizeof line,
                        "%s %s: link %.1f GB/s, staged %.3f of it, single %.3f, %zu rounds", shape.c_str(),
                        way.c_str(), median(links), median(series.at("staged").ratio),
                        median(series.at("single").ratio), links.size());
    say(line);
    for (const auto& [name, of] : series) {
      entry["variants"][name] = {{"gbps", median(of.gbps)},
                                 {"ratio", median(of.ratio)},
                                 {"ratio_all", of.ratio},
                                 {"cpu_ms_per_gb", median(of.cpu_ms_per_gb)},
                                 {"submit_us_per_batch", median(of.submit_us)}};
    }
  }

  [[nodiscard]] Status measure_small() {
    say("single batches");
    const Workload workload = workload_of(shapes[2]);
    if (Status good = set_layers(workload); !good) return good;
    for (const Variant& variant : variants_) {
      for (const GpuDirection direction : {GpuDirection::load, GpuDirection::store}) {
        for (const uint32_t segments : {1U, 8U, 64U}) {
          const auto times = run_small(*variant.transfer, workload.small(direction, segments), 100);
          if (!times) return fail(times.error().code, variant.name + ": " + times.error().message);
          const std::string way = direction == GpuDirection::load ? "load" : "store";
          result_["small"][variant.name][way + " " + std::to_string(segments) + " MiB"] = {
              {"submit_us", times->submit_us}, {"total_us", times->total_us}};
        }
      }
    }
    return {};
  }

  [[nodiscard]] Status measure_sharing() {
    const Workload workload = workload_of(shapes[2]);
    if (Status good = set_layers(workload); !good) return good;
    for (const OtherWork work : {OtherWork::memory, OtherWork::arithmetic}) {
      say("beside other work: " + to_string(work));
      std::vector<double> alone;
      for (int i = 0; i < 4; ++i) {
        const auto ms = sharing_.alone_ms(work);
        if (!ms) return tl::unexpected(ms.error());
        if (i > 0) alone.push_back(*ms);  // the first one loads the kernel
      }
      json& entry = result_["sharing"][to_string(work)];
      entry["alone_ms"] = median(alone);
      for (const Variant& variant : variants_) {
        if (!variant.shares) continue;
        if (Status good = share(work, variant, workload, median(alone), entry); !good) return good;
      }
    }
    return {};
  }

  [[nodiscard]] Status share(OtherWork work, const Variant& variant, const Workload& workload,
                             double alone_ms, json& entry) {
    for (const Way& way : {ways[0], ways[1]}) {
      std::vector<double> slower;
      std::vector<double> gbps;
      for (int i = 0; i < 3; ++i) {
        const auto beside = sharing_.beside(work, *variant.transfer, workload, way.directions);
        if (!beside) return fail(beside.error().code, variant.name + ": " + beside.error().message);
        slower.push_back(beside->other_ms / alone_ms);
        gbps.push_back(static_cast<double>(beside->transfer.bytes) / beside->transfer.seconds * 1e-9);
      }
      entry["beside"][variant.name][way.name] = {{"other_slower", median(slower)}, {"gbps", median(gbps)}};
    }
    return {};
  }

  // Of an engine's small copies, by how often the transfer gives way.
  [[nodiscard]] Status measure_other_copies() {
    const Workload workload = workload_of(shapes[2]);
    for (const uint64_t mib : {0U, 16U, 32U, 64U, 128U, 256U}) {
      auto transfer = cuda_plugin().open({.device = settings_.device, .give_way_bytes = mib << 20});
      if (!transfer) return tl::unexpected(transfer.error());
      Status good = (*transfer)->register_host(from_.bytes());
      if (good) good = (*transfer)->register_host(to_.bytes());
      if (good) good = (*transfer)->set_layers(workload.layers());
      for (const Way& way : {ways[0], ways[1]}) {
        for (const uint64_t bytes : {4096U, 8192U, 512U << 10}) {
          if (good) good = measure_other_copies(mib, way, bytes, **transfer, workload);
        }
      }
      if (!good) return good;
    }
    return {};
  }

  [[nodiscard]] Status measure_other_copies(uint64_t give_way_mib, const Way& way, uint64_t bytes,
                                            GpuTransfer& transfer, const Workload& workload) {
    const GpuDirection direction = way.directions.load ? GpuDirection::load : GpuDirection::store;
    const auto alone = other_copies_.alone(direction, bytes);
    if (!alone) return tl::unexpected(alone.error());
    const auto beside = other_copies_.beside(direction, bytes, transfer, workload);
    if (!beside) return tl::unexpected(beside.error());
    const auto& [others, times] = *beside;
    const double gbps = static_cast<double>(times.bytes) / times.seconds * 1e-9;
    result_["other_copies"].push_back({{"give_way_mib", give_way_mib},
                                       {"way", way.name},
                                       {"bytes", bytes},
                                       {"alone_us", alone->median_us},
                                       {"beside_us", others.median_us},
                                       {"beside_longest_us", others.longest_us},
                                       {"copies", others.count},
                                       {"gbps", gbps}});
    char line[160];
    (void)std::snprintf(
        line, sizeof line,
        "%s, giving way after %3llu MiB: others' %6llu bytes %6.0f us alone, beside %7.0f, at most "
        "%7.0f (%zu), %.2f GB/s",
        way.name.c_str(), static_cast<unsigned long long>(give_way_mib),
        static_cast<unsigned long long>(bytes), alone->median_us, others.median_us, others.longest_us,
        others.count, gbps);
    say(line);
    return {};
  }

  void report() {
    result_["bytes"] = settings_.gib << 30;
    result_["seconds"] = since(start_);
    std::cout << result_.dump() << "\n";
    print_table("GB/s over the link's, by pages and direction", "ratio", "%8.3f");
    print_table("CPU milliseconds a GB", "cpu_ms_per_gb", "%8.2f");
    print_table("microseconds in submit() a batch of 256 MiB", "submit_us_per_batch", "%8.0f");
    print_small();
    print_sharing();
  }

  void print_table(const char* title, const char* key, const char* format) const {
    (void)std::printf("\n%s\n%-14s", title, "");
    for (const CacheShape& shape : shapes) (void)std::printf(" %24s", shape.name.c_str());
    (void)std::printf("\n%-14s", "");
    for (size_t i = 0; i < shapes.size(); ++i) (void)std::printf("     load   store    both");
    (void)std::printf("\n");
    if (std::string(key) == "ratio") {
      (void)std::printf("%-14s", "link GB/s");
      for (const CacheShape& shape : shapes) {
        (void)std::printf(" ");
        for (const Way& way : ways) {
          (void)std::printf("%8.1f",
                            result_["large"][shape.name + " " + way.name]["link_gbps"].get<double>());
        }
      }
      (void)std::printf("\n");
    }
    for (const Variant& variant : variants_) {
      (void)std::printf("%-14s", variant.name.c_str());
      for (const CacheShape& shape : shapes) {
        (void)std::printf(" ");
        for (const Way& way : ways) {
          const json& entry = result_["large"][shape.name + " " + way.name];
          (void)std::printf(format, entry["variants"][variant.name][key].get<double>());
        }
      }
      (void)std::printf("\n");
    }
  }

  void print_small() const {
    (void)std::printf("\none batch alone: microseconds in submit() / until it is complete\n%-14s", "");
    for (const char* way : {"load", "store"}) {
      for (const char* size : {"1 MiB", "8 MiB", "64 MiB"}) (void)std::printf(" %6s %6s", way, size);
    }
    (void)std::printf("\n");
    for (const Variant& variant : variants_) {
      (void)std::printf("%-14s", variant.name.c_str());
      for (const char* way : {"load ", "store "}) {
        for (const char* size : {"1 MiB", "8 MiB", "64 MiB"}) {
          const json& entry = result_["small"][variant.name][std::string(way) + size];
          (void)std::printf(" %6.1f/%6.0f", entry["submit_us"].get<double>(),
                            entry["total_us"].get<double>());
        }
      }
      (void)std::printf("\n");
    }
  }

  void print_sharing() const {
    if (!result_["sharing"]["memory"].contains("beside")) return;
    (void)std::printf("\nbeside other work: its time over that alone, and the transfer's GB/s\n%-14s", "");
    for (const char* work : {"memory", "arithmetic"}) {
      for (const char* way : {"load", "store"}) (void)std::printf(" %10s %5s", work, way);
    }
    (void)std::printf("\n");
    for (const auto& [name, of] : result_["sharing"]["memory"]["beside"].items()) {
      (void)std::printf("%-14s", name.c_str());
      for (const char* work : {"memory", "arithmetic"}) {
        for (const char* way : {"load", "store"}) {
          const json& entry = result_["sharing"][work]["beside"][name][way];
          (void)std::printf("    %6.3f %6.1f", entry["other_slower"].get<double>(),
                            entry["gbps"].get<double>());
        }
      }
      (void)std::printf("\n");
    }
  }

  // Before the memory that they have registered.
  void close() { variants_.clear(); }

  Settings settings_;
  Clock::time_point start_ = Clock::now();
  HostMemory from_;
  HostMemory to_;
  DeviceMemory block_;
  Link link_;
  Sharing sharing_;
  OtherCopies other_copies_;
  std::vector<Variant> variants_;
  json result_;
};

}  // namespace

// Stands in for base/log.cpp, so that the program needs none of that one's libraries.
void log_message(LogLevel /*level*/, std::string_view message) {
  (void)std::fprintf(stderr, "%.*s\n", static_cast<int>(message.size()), message.data());
}

}  // namespace kvpool

int main(int argc, char** argv) try {
  kvpool::Settings settings;
  CLI::App app("How fast blocks come to and from the pages of a paged KV cache");
  app.option_defaults()->always_capture_default();
  app.add_option("--device", settings.device, "CUDA's ordinal")->check(CLI::NonNegativeNumber);
  app.add_option("--gib", settings.gib, "moved each way, in GiB")->check(CLI::Range(1, 1024));
  app.add_option("--repeats", settings.repeats, "rounds of each measurement")->check(CLI::Range(1, 10'000));
  app.add_option("--seconds", settings.seconds, "for the large transfers; fewer rounds where it is short")
      ->check(CLI::Range(1, 3600));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  const kvpool::Status done = kvpool::Bench(settings).run();
  if (done) return 0;
  (void)std::fprintf(stderr, "gpu_transfer_bench: %s\n", done.error().message.c_str());
  return done.error().code == kvpool::Errc::unsupported ? 77 : 1;
} catch (const std::exception& error) {
  (void)std::fprintf(stderr, "gpu_transfer_bench: %s\n", error.what());
  return 1;
}
