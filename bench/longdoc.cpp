#include "bench/longdoc.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>

#include "base/median.h"
#include "base/units.h"
#include "bench/system_time.h"

namespace kvpool::bench {
namespace {

constexpr uint32_t concurrency_max = 16;
constexpr uint64_t tokens_max = 128 * 1024;
constexpr uint32_t documents_max = 256;
constexpr size_t busy_bins = 60;  // as many as a plot can show

double to_seconds(Nanos time) { return std::chrono::duration<double>(time).count(); }

// A value of each repeat, by whatever of it is asked for.
template <class Repeats, class Get>
double median_of(const Repeats& repeats, Get get) {
  std::vector<double> values;
  for (const auto& repeat : repeats) values.push_back(get(repeat));
  return median(std::move(values));
}

std::vector<const SystemKind*> chosen_systems(const LongdocOptions& options) {
  std::vector<const SystemKind*> chosen;
  for (const SystemKind& kind : system_kinds()) {
    const auto& wanted = options.systems;
    const bool named = std::find(wanted.begin(), wanted.end(), kind.name) != wanted.end();
    if (named || (wanted.empty() && why_left_out(kind.path, options.config).empty())) chosen.push_back(&kind);
  }
  return chosen;
}

// The devices that some of the systems use, and what is known of them.
struct Side {
  Config config;
  Profile profile;
  std::unique_ptr<LimitMeter> meter;  // none: measured before a system has the devices
};

Side make_side(const LongdocOptions& options, StoragePath path) {
  Side side{.config = options.config};
  side.config.namespaces.clear();
  std::erase_if(side.config.devices, [path](const DeviceConfig& device) { return !uses(path, device.kind); });
  if (!options.profile) return side;
  side.profile = *options.profile;
  side.profile.devices.clear();
  for (size_t i = 0; i < options.config.devices.size(); ++i) {
    if (uses(path, options.config.devices[i].kind))
      side.profile.devices.push_back(options.profile->devices[i]);
  }
  return side;
}

// What one repeat was measured to take.
struct Repeat {
  Asked asked;
  CpuTime cpu;
  SystemUse before, after;
  std::vector<ThreadCalls> threads;  // empty: not counted
  CallTotals calls;
  Limits limits;                                    // measured just before it
  std::vector<std::vector<double>> busy_over_time;  // [devices][busy_bins]

  [[nodiscard]] double wall_s() const { return to_seconds(asked.wall); }
  [[nodiscard]] double gbps() const { return static_cast<double>(asked.bytes) / wall_s() / 1e9; }
  [[nodiscard]] double limit_gbps() const { return limits.together() / 1e9; }
  [[nodiscard]] double read_bytes(size_t device) const {
    return static_cast<double>(after.devices[device].read_bytes - before.devices[device].read_bytes);
  }
  [[nodiscard]] double requests_s(size_t device) const {
    return to_seconds(after.devices[device].under_way - before.devices[device].under_way);
  }
  [[nodiscard]] double storage_busy_s() const {
    return std::min(wall_s(), to_seconds(*after.storage_busy - *before.storage_busy));
  }
  [[nodiscard]] double busy_s(size_t device) const {
    return std::min(wall_s(), to_seconds(after.devices[device].busy - before.devices[device].busy));
  }
};

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
    device.limit_gbps =
        median_of(repeats, [d](const Repeat& r) { return r.limits.read_bytes_per_second[d] / 1e9; });
    device.busy_over_time = typical.busy_over_time[d];
    if (!typical.after.devices[d].in_place) {
      device.requests_s = median_of(repeats, [d](const Repeat& r) { return r.requests_s(d); });
    }
    devices.push_back(std::move(device));
  }
  for (LongdocDevice& device : devices) {
    device.share = all_bytes > 0 ? static_cast<double>(device.bytes) / all_bytes : 0;
  }
  return devices;
}

LongdocCalls make_calls(const std::vector<Repeat>& repeats, const Repeat& typical) {
  const auto number = [&](auto get) { return static_cast<uint64_t>(median_of(repeats, get)); };
  LongdocCalls calls;
  calls.blocked_s = median_of(repeats, [](const Repeat& r) { return to_seconds(r.calls.blocked); });
  calls.idle_s = median_of(repeats, [](const Repeat& r) { return to_seconds(r.calls.idle); });
  calls.io_calls = number([](const Repeat& r) { return static_cast<double>(r.calls.io_calls); });
  calls.other_calls = number([](const Repeat& r) { return static_cast<double>(r.calls.other_calls); });
  calls.threads = typical.threads;
  return calls;
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
  const Repeat& typical = median_repeat(repeats);
  row.busy_bin_s = typical.wall_s() / static_cast<double>(busy_bins);
  if (typical.before.storage_busy && typical.after.storage_busy) {
    row.device_s = median_of(repeats, [](const Repeat& r) { return r.storage_busy_s(); });
    row.device_s_by_kernel = kind.path == StoragePath::files;
  }
  if (!typical.threads.empty()) row.calls = make_calls(repeats, typical);
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
  Run(Machine& machine, const LongdocOptions& options, const SystemCallCounter& counter,
      const Progress& progress)
      : machine_(machine),
        options_(options),
        counter_(counter),
        progress_(progress),
        new_files_(options.config) {}

  [[nodiscard]] Result<std::vector<LongdocRow>> all() {
    const auto systems = chosen_systems(options_);
    steps_ = options_.models.size() * options_.tokens.size() * systems.size() *
             (2 + options_.concurrency.size() * options_.repeat);
    if (std::ranges::any_of(systems, [](const auto* kind) { return kind->path == StoragePath::direct; })) {
      if (auto free = try_devices(); !free) return tl::unexpected(free.error());
    }
    for (const SystemKind* kind : systems) {
      if (auto ready = prepare(kind->path); !ready) return tl::unexpected(ready.error());
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
  // Refuses at once what the first direct system would be refused later: a pool may be using the storage
  // devices, or they may not fit their disk. Passthrough devices are opened to be measured.
  [[nodiscard]] Status try_devices() {
    Config storage = make_side(options_, StoragePath::direct).config;
    std::erase_if(storage.devices, [](const DeviceConfig& d) { return d.kind == DeviceKind::memory; });
    storage.buffer_bytes = 0;
    const auto opened = machine_.open_devices(storage, {});
    return opened ? Status{} : tl::unexpected(opened.error());
  }

  // Opens what measures the devices of a side, and measures them if nothing else has told their rates.
  [[nodiscard]] Status prepare(StoragePath path) {
    std::optional<Side>& side = sides_[path == StoragePath::passthrough];
    if (side) return {};
    if (stopped()) return fail(Errc::cancelled, "stopped");
    progress_("measuring the devices", 0);
    side = make_side(options_, path);
    auto meter = LimitMeter::open(machine_, side->config, options_.limit_duration);
    if (!meter) return tl::unexpected(meter.error());
    if (!options_.profile) {
      auto profile = (*meter)->profile();
      if (!profile) return tl::unexpected(profile.error());
      side->profile = std::move(*profile);
    }
    if (path != StoragePath::passthrough) side->meter = std::move(*meter);
    return {};
  }

  // What the devices deliver now; of devices that cannot be opened beside a system, now is before it is
  // opened.
  [[nodiscard]] Result<Limits> limits_before(const Side& side) {
    if (side.meter) return Limits{};
    auto meter = LimitMeter::open(machine_, side.config, options_.limit_duration);
    if (!meter) return tl::unexpected(meter.error());
    return (*meter)->measure();
  }

  // One system with one set of documents: stored, compared byte by byte, and asked.
  [[nodiscard]] Status one(const SystemKind& kind, const Documents& documents) {
    const Side& side = *sides_[kind.path == StoragePath::passthrough];
    if (auto on = step(kind, documents, "storing"); !on) return on;
    const auto limits = limits_before(side);
    if (!limits) return tl::unexpected(limits.error());
    auto system = open_system(kind, machine_, side.config, side.profile, documents);
    if (!system) return tl::unexpected(system.error());
    const SteadyClock clock;
    const Nanos begin = clock.now();
    if (auto stored = (*system)->store(); !stored) return stored;
    const double stored_s = to_seconds(clock.now() - begin);
    if (auto on = step(kind, documents, "comparing every byte"); !on) return on;
    const auto order = question_order(documents.count(), documents.count(), options_.seed);
    if (auto cold = (*system)->make_cold(false); !cold) return cold;
    const auto compared = (*system)->ask(order, 1, Check::every_byte);
    if (!compared) return tl::unexpected(compared.error());
    for (const uint32_t concurrency : options_.concurrency) {
      std::vector<Repeat> repeats;
      for (uint32_t r = 0; r < options_.repeat; ++r) {
        if (auto on = step(kind, documents, fmt::format("asking, {} at a time", concurrency)); !on) return on;
        auto repeat = ask(**system, documents, concurrency, r, side.meter.get());
        if (!repeat) return tl::unexpected(repeat.error());
        if (!side.meter) repeat->limits = *limits;
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
                                   uint32_t number, LimitMeter* meter) {
    const uint32_t questions = std::max(documents.count(), concurrency);
    const auto order = question_order(documents.count(), questions, options_.seed + number + 1);
    if (auto cold = system.make_cold(questions > documents.count()); !cold)
      return tl::unexpected(cold.error());
    Repeat repeat;
    if (meter != nullptr) {
      auto limits = meter->measure();
      if (!limits) return tl::unexpected(limits.error());
      repeat.limits = std::move(*limits);
    }
    repeat.before = system.use();
    const Meters& meters = system.meters();
    for (MeterDevice* device : meters.devices) device->start_record(SteadyClock().now());
    if (counter_.start) counter_.start();
    const CpuTime cpu = process_cpu_time();
    auto asked = system.ask(order, concurrency, Check::stamps);
    repeat.cpu = process_cpu_time() - cpu;
    if (counter_.stop) repeat.threads = counter_.stop();
    repeat.after = system.use();
    repeat.calls = add_up(repeat.threads, meters.storage_drivers());
    if (!asked) return tl::unexpected(asked.error());
    repeat.asked = std::move(*asked);
    for (const MeterDevice* device : meters.devices) {
      repeat.busy_over_time.push_back(
          fractions_of(device->record(), repeat.asked.begin, repeat.asked.wall, busy_bins));
    }
    return repeat;
  }

  [[nodiscard]] bool stopped() const { return options_.stopped && options_.stopped(); }

  [[nodiscard]] Status step(const SystemKind& kind, const Documents& documents, const std::string& what) {
    if (stopped()) return fail(Errc::cancelled, "stopped");
    progress_(
        fmt::format("{} {} tokens, {}: {}", documents.geometry().name, documents.tokens(), kind.name, what),
        static_cast<double>(steps_done_++) / static_cast<double>(steps_));
    return {};
  }

  Machine& machine_;
  const LongdocOptions& options_;
  const SystemCallCounter& counter_;
  const Progress& progress_;
  NewFiles new_files_;
  std::array<std::optional<Side>, 2>
      sides_;  // of the systems that do without passthrough, and of those by it
  std::vector<LongdocRow> rows_;
  uint64_t steps_ = 0;
  uint64_t steps_done_ = 0;
};

}  // namespace

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
    const auto kind = std::ranges::find(system_kinds(), system, &SystemKind::name);
    if (kind == system_kinds().end()) {
      std::vector<std::string_view> names;
      for (const SystemKind& known : system_kinds()) names.push_back(known.name);
      return bad(fmt::format("--systems {}: allowed are all, {}", system, fmt::join(names, ", ")));
    }
    if (const std::string why = why_left_out(kind->path, options.config); !why.empty()) {
      return bad(fmt::format("--systems {}: {}", system, why));
    }
  }
  return {};
}

std::vector<LeftOut> systems_left_out(const LongdocOptions& options) {
  std::vector<LeftOut> left_out;
  for (const SystemKind& kind : system_kinds()) {
    std::string why = why_left_out(kind.path, options.config);
    if (options.systems.empty() && !why.empty()) left_out.push_back({std::string(kind.name), std::move(why)});
  }
  return left_out;
}

Result<std::vector<LongdocRow>> run_longdoc(Machine& machine, const LongdocOptions& options,
                                            const SystemCallCounter& counter, const Progress& progress) {
  if (auto valid = validate(options); !valid) return tl::unexpected(valid.error());
  return Run(machine, options, counter, progress).all();
}

}  // namespace kvpool::bench
