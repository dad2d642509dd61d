#include "bench/longdoc.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>

#include "base/units.h"
#include "bench/pooled_system.h"
#include "bench/system_time.h"
#include "bench/tiered_system.h"

namespace kvpool::bench {
namespace {

constexpr std::array system_table{
    SystemKind{"tiered-files", false, true, std::nullopt},
    SystemKind{"pooled-files", true, true, std::nullopt},
    SystemKind{"tiered-direct", false, false, std::nullopt},
    SystemKind{"striped-direct", true, false, PlacementRule::equal},
    SystemKind{"pooled-direct", true, false, std::nullopt},
};
constexpr uint32_t concurrency_max = 16;
constexpr uint64_t tokens_max = 128 * 1024;
constexpr uint32_t documents_max = 256;
constexpr size_t busy_bins = 60;  // as many as a plot can show

double to_seconds(Nanos time) { return std::chrono::duration<double>(time).count(); }

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

// A value of each repeat, by whatever of it is asked for.
template <class Repeats, class Get>
double median_of(const Repeats& repeats, Get get) {
  std::vector<double> values;
  for (const auto& repeat : repeats) values.push_back(get(repeat));
  return median(std::move(values));
}

std::vector<const SystemKind*> chosen_systems(const LongdocOptions& options) {
  std::vector<const SystemKind*> chosen;
  for (const SystemKind& kind : system_table) {
    const auto& wanted = options.systems;
    if (wanted.empty() || std::find(wanted.begin(), wanted.end(), kind.name) != wanted.end()) {
      chosen.push_back(&kind);
    }
  }
  return chosen;
}

// What one repeat was measured to take.
struct Repeat {
  Asked asked;
  CpuTime cpu;
  SystemUse before, after;
  Limits limits;                                    // measured just before it
  std::vector<std::vector<double>> busy_over_time;  // [devices][busy_bins]

  [[nodiscard]] double wall_s() const { return to_seconds(asked.wall); }
  [[nodiscard]] double gbps() const { return static_cast<double>(asked.bytes) / wall_s() / 1e9; }
  [[nodiscard]] double limit_gbps() const { return limits.together() / 1e9; }
  [[nodiscard]] double read_bytes(size_t device) const {
    return static_cast<double>(after.devices[device].read_bytes - before.devices[device].read_bytes);
  }
  [[nodiscard]] double busy_s(size_t device) const {
    return std::min(wall_s(), to_seconds(after.devices[device].busy - before.devices[device].busy));
  }
  [[nodiscard]] double blocked_s() const;
};

// A thread that sleeps between polls waits for I/O at most while a storage device has something under way.
double Repeat::blocked_s() const {
  double storage_busy_s = 0;
  for (size_t d = 0; d < after.devices.size(); ++d) {
    if (!after.devices[d].in_place) storage_busy_s = std::max(storage_busy_s, busy_s(d));
  }
  return to_seconds(after.io_calls - before.io_calls) +
         std::min(to_seconds(after.slept - before.slept), storage_busy_s);
}

// That of the median wall time; of the two in the middle the shorter.
const Repeat& median_repeat(const std::vector<Repeat>& repeats) {
  std::vector<const Repeat*> order;
  for (const Repeat& repeat : repeats) order.push_back(&repeat);
  std::sort(order.begin(), order.end(),
            [](const Repeat* a, const Repeat* b) { return a->asked.wall < b->asked.wall; });
  return *order[(order.size() - 1) / 2];
}

std::vector<LongdocDevice> make_devices(const std::vector<Repeat>& repeats,
                                        const std::vector<double>& planned_shares) {
  std::vector<LongdocDevice> devices;
  const Repeat& typical = median_repeat(repeats);
  double all_bytes = 0;
  for (size_t d = 0; d < typical.after.devices.size(); ++d) {
    const double bytes = median_of(repeats, [d](const Repeat& r) { return r.read_bytes(d); });
    all_bytes += bytes;
    LongdocDevice device{.name = typical.after.devices[d].name, .bytes = static_cast<uint64_t>(bytes)};
    if (d < planned_shares.size()) device.planned_share = planned_shares[d];
    device.busy_fraction = median_of(repeats, [d](const Repeat& r) { return r.busy_s(d) / r.wall_s(); });
    device.busy_over_time = typical.busy_over_time[d];
    devices.push_back(std::move(device));
  }
  for (LongdocDevice& device : devices) {
    device.share = all_bytes > 0 ? static_cast<double>(device.bytes) / all_bytes : 0;
  }
  return devices;
}

LongdocRow make_row(const SystemKind& kind, const Documents& documents, uint32_t concurrency,
                    const std::vector<Repeat>& repeats) {
  LongdocRow row;
  row.system = kind.name;
  row.model = documents.geometry().name;
  row.tokens = documents.tokens();
  row.concurrency = concurrency;
  std::vector<double> seconds;
  for (const Repeat& repeat : repeats) {
    for (const Nanos latency : repeat.asked.latencies) seconds.push_back(to_seconds(latency));
    row.wrong_blocks += repeat.asked.wrong_blocks;
  }
  row.seconds_min = *std::min_element(seconds.begin(), seconds.end());
  row.seconds_p50 = median(seconds);
  row.seconds_max = *std::max_element(seconds.begin(), seconds.end());
  row.gbps = median_of(repeats, [](const Repeat& r) { return r.gbps(); });
  row.limit_gbps = median_of(repeats, [](const Repeat& r) { return r.limit_gbps(); });
  row.fraction_of_limit = median_of(repeats, [](const Repeat& r) { return r.gbps() / r.limit_gbps(); });
  row.ttft_s = row.seconds_p50 + question_prefill_s(row.tokens);
  row.cpu_user_s = median_of(repeats, [](const Repeat& r) { return to_seconds(r.cpu.user); });
  row.cpu_system_s = median_of(repeats, [](const Repeat& r) { return to_seconds(r.cpu.system); });
  row.blocked_s = median_of(repeats, [](const Repeat& r) { return r.blocked_s(); });
  row.busy_bin_s = median_repeat(repeats).wall_s() / static_cast<double>(busy_bins);
  return row;
}

// Removes the files of file devices that this run has made, so that two systems' documents need not lie on
// the disk at once.
class NewFiles {
 public:
  explicit NewFiles(const Config& config) {
    for (const DeviceConfig& device : config.devices) {
      if (device.kind == DeviceKind::file && access(device.path.c_str(), F_OK) != 0) {
        paths_.push_back(device.path);
      }
    }
  }
  NewFiles(const NewFiles&) = delete;
  NewFiles& operator=(const NewFiles&) = delete;
  ~NewFiles() { remove(); }
  void remove() const {
    for (const std::string& path : paths_) unlink(path.c_str());
  }

 private:
  std::vector<std::string> paths_;
};

class Run {
 public:
  Run(Machine& machine, const LongdocOptions& options, const Progress& progress)
      : machine_(machine), options_(options), progress_(progress), new_files_(options.config) {}

  [[nodiscard]] Result<std::vector<LongdocRow>> all() {
    const auto systems = chosen_systems(options_);
    steps_ = options_.models.size() * options_.tokens.size() * systems.size() *
             (2 + options_.concurrency.size() * options_.repeat);
    for (const SystemKind* kind : systems) {
      if (auto ready = prepare(*kind); !ready) return tl::unexpected(ready.error());
    }
    for (const Geometry& geometry : options_.models) {
      for (const uint64_t tokens : options_.tokens) {
        const Documents documents(geometry, tokens, options_.documents, options_.seed);
        for (const SystemKind* kind : systems) {
          if (auto done = one(*kind, documents); !done) {
            return fail(done.error().code, fmt::format("{}: {}", kind->name, done.error().message));
          }
        }
      }
    }
    return std::move(rows_);
  }

 private:
  [[nodiscard]] Status measure() {
    progress_("measuring the devices", 0);
    auto meter = LimitMeter::open(machine_, options_.config, options_.limit_duration);
    if (!meter) return tl::unexpected(meter.error());
    meter_ = std::move(*meter);
    if (options_.profile) {
      profile_ = *options_.profile;
      return {};
    }
    auto profile = meter_->profile();
    if (!profile) return tl::unexpected(profile.error());
    profile_ = std::move(*profile);
    return {};
  }

  // One system with one set of documents: stored, compared byte by byte, and asked.
  [[nodiscard]] Status one(const SystemKind& kind, const Documents& documents) {
    auto system = open_system(kind, machine_, options_.config, profile_, documents);
    if (!system) return tl::unexpected(system.error());
    step(kind, documents, "storing");
    const SteadyClock clock;
    const Nanos begin = clock.now();
    if (auto stored = (*system)->store(); !stored) return stored;
    const double stored_s = to_seconds(clock.now() - begin);
    step(kind, documents, "comparing every byte");
    const auto order = question_order(documents.count(), documents.count(), options_.seed);
    if (auto cold = (*system)->make_cold(false); !cold) return cold;
    const auto compared = (*system)->ask(order, 1, Check::every_byte);
    if (!compared) return tl::unexpected(compared.error());
    for (const uint32_t concurrency : options_.concurrency) {
      std::vector<Repeat> repeats;
      for (uint32_t r = 0; r < options_.repeat; ++r) {
        step(kind, documents, fmt::format("asking, {} at a time", concurrency));
        auto repeat = ask(**system, documents, concurrency, r);
        if (!repeat) return tl::unexpected(repeat.error());
        repeats.push_back(std::move(*repeat));
      }
      LongdocRow row = make_row(kind, documents, concurrency, repeats);
      row.devices = make_devices(repeats, (*system)->planned_shares());
      row.wrong_blocks += compared->wrong_blocks;
      row.spilled_bytes = (*system)->spilled_bytes();
      row.store_gbps = static_cast<double>(documents.count() * documents.stored_bytes()) / stored_s / 1e9;
      rows_.push_back(std::move(row));
    }
    system->reset();
    new_files_.remove();
    return {};
  }

  [[nodiscard]] Result<Repeat> ask(System& system, const Documents& documents, uint32_t concurrency,
                                   uint32_t number) {
    const uint32_t questions = std::max(documents.count(), concurrency);
    const auto order = question_order(documents.count(), questions, options_.seed + number + 1);
    if (auto cold = system.make_cold(questions > documents.count()); !cold)
      return tl::unexpected(cold.error());
    Repeat repeat;
    auto limits = meter_->measure();
    if (!limits) return tl::unexpected(limits.error());
    repeat.limits = std::move(*limits);
    repeat.before = system.use();
    for (MeterDevice* meter : system.meters()) meter->start_record(SteadyClock().now());
    const CpuTime cpu = process_cpu_time();
    auto asked = system.ask(order, concurrency, Check::stamps);
    repeat.cpu = process_cpu_time() - cpu;
    repeat.after = system.use();
    if (!asked) return tl::unexpected(asked.error());
    repeat.asked = std::move(*asked);
    for (const MeterDevice* meter : system.meters()) {
      repeat.busy_over_time.push_back(
          fractions_of(meter->record(), repeat.asked.begin, repeat.asked.wall, busy_bins));
    }
    return repeat;
  }

  void step(const SystemKind& kind, const Documents& documents, const std::string& what) {
    progress_(
        fmt::format("{} {} tokens, {}: {}", documents.geometry().name, documents.tokens(), kind.name, what),
        static_cast<double>(steps_done_++) / static_cast<double>(steps_));
  }

  Machine& machine_;
  const LongdocOptions& options_;
  const Progress& progress_;
  NewFiles new_files_;
  std::unique_ptr<LimitMeter> meter_;
  Profile profile_;
  std::vector<LongdocRow> rows_;
  uint64_t steps_ = 0;
  uint64_t steps_done_ = 0;
};

}  // namespace

std::span<const SystemKind> system_kinds() { return system_table; }

Result<std::unique_ptr<System>> open_system(const SystemKind& kind, Machine& machine, const Config& config,
                                            const Profile& profile, const Documents& documents) {
  Config own = config;
  own.buffer_bytes = consumer_buffer_bytes(documents);
  own.placement = kind.placement.value_or(config.placement);
  own.namespaces.clear();
  if (kind.pooled) return PooledSystem::open(machine, std::move(own), profile, documents, kind.files);
  return TieredSystem::open(machine, own, documents, kind.files);
}

Status validate(const LongdocOptions& options) {
  const auto bad = [](std::string what) { return fail(Errc::invalid_argument, std::move(what)); };
  if (options.config.devices.empty()) return bad("a pool has at least one device: --device or --config");
  for (const uint64_t tokens : options.tokens) {
    if (tokens == 0 || tokens > tokens_max)
      return bad(fmt::format("--tokens {}: allowed are 1 to 128k", tokens));
  }
  if (options.documents == 0 || options.documents > documents_max) {
    return bad(fmt::format("--documents {}: allowed are 1 to {}", options.documents, documents_max));
  }
  for (const uint32_t concurrency : options.concurrency) {
    if (concurrency == 0 || concurrency > concurrency_max) {
      return bad(fmt::format("--concurrency {}: allowed are 1 to {}", concurrency, concurrency_max));
    }
  }
  if (options.repeat == 0) return bad("--repeat 0: at least 1");
  for (const std::string& system : options.systems) {
    const auto named = [&](const SystemKind& kind) { return kind.name == system; };
    if (std::none_of(system_table.begin(), system_table.end(), named)) {
      std::vector<std::string_view> names;
      for (const SystemKind& kind : system_table) names.push_back(kind.name);
      return bad(fmt::format("--systems {}: allowed are all, {}", system, fmt::join(names, ", ")));
    }
  }
  return {};
}

Result<std::vector<LongdocRow>> run_longdoc(Machine& machine, const LongdocOptions& options,
                                            const Progress& progress) {
  if (auto valid = validate(options); !valid) return tl::unexpected(valid.error());
  return Run(machine, options, progress).all();
}

}  // namespace kvpool::bench
