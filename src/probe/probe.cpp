#include "probe/probe.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "base/assert.h"
#include "base/prng.h"
#include "base/units.h"
#include "probe/load.h"
#include "probe/machine.h"

namespace kvpool {
namespace {

constexpr uint32_t size_bytes_preferred = 1 << 20;
constexpr uint32_t depth_max = 64;
constexpr std::array<uint32_t, 6> sweep_sizes = {4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20};
constexpr std::array<uint32_t, 4> sweep_depths = {1, 4, 16, 32};
constexpr double near_best = 0.97;

// How a device's time is spent: writing, reading, latencies of both, and the sweep.
struct Budget {
  Nanos write{0};
  Nanos read{0};
  Nanos latency{0};
  Nanos sweep{0};
};

Budget budget_of(const ProbeOptions& options) {
  const Nanos all = options.per_device;
  if (options.sweep) return {.write = all / 5, .read = all / 5, .latency = all / 40, .sweep = all / 2};
  return {.write = all * 2 / 5, .read = all * 2 / 5, .latency = all / 20};
}

uint64_t round_down(uint64_t value, uint64_t multiple) { return value / multiple * multiple; }

// Random bytes: some drives are faster with zeros. `step_bytes` a page: it is enough that the memory is
// there.
void fill(std::span<std::byte> memory, size_t step_bytes) {
  Prng prng(memory.size());
  for (size_t at = 0; at + sizeof(uint64_t) <= memory.size(); at += step_bytes) {
    const uint64_t word = prng.next();
    std::memcpy(memory.data() + at, &word, sizeof word);
  }
}

std::span<std::byte> align(std::span<std::byte> memory, uint32_t alignment_bytes) {
  const auto address = reinterpret_cast<uintptr_t>(memory.data());
  const size_t skip = (alignment_bytes - address % alignment_bytes) % alignment_bytes;
  return skip < memory.size() ? memory.subspan(skip) : std::span<std::byte>{};
}

// One device, measured alone. Keeps what the measurement of all together needs.
class DeviceProbe {
 public:
  DeviceProbe(const Clock& clock, Waiter& waiter, Transfer& transfer, Device& device)
      : clock_(clock), waiter_(waiter), transfer_(transfer), device_(device), limits_(device.limits()) {
    profile_.name = device.name();
    profile_.storage = limits_.storage;
  }

  // Takes `memory` as the other side of all requests, or where an in-place device is given none, a part of
  // the device itself.
  [[nodiscard]] Status take_buffer(std::span<std::byte> memory);
  [[nodiscard]] Status measure(const ProbeOptions& options);
  // The load of the reading alone, for reading together; into other memory if that holds a request.
  [[nodiscard]] Load together_load(uint32_t tag, std::span<std::byte> memory) const;

  [[nodiscard]] DeviceProfile& profile() { return profile_; }
  [[nodiscard]] std::vector<ProbePoint>& points() { return points_; }

 private:
  [[nodiscard]] Status borrow_from_device();
  [[nodiscard]] LoadShape shape(IoKind kind, uint32_t size_bytes, uint32_t depth) const;
  [[nodiscard]] Status run(Load& load, Nanos duration) {
    return run_loads(clock_, waiter_, transfer_, {&load, 1}, duration);
  }
  [[nodiscard]] Status measure_latency(Nanos duration);
  [[nodiscard]] Status sweep(Nanos duration);
  [[nodiscard]] uint64_t queue_bytes() const;

  const Clock& clock_;
  Waiter& waiter_;
  Transfer& transfer_;
  Device& device_;
  DeviceLimits limits_;
  std::span<std::byte> buffer_;
  uint32_t size_bytes_ = 0;
  uint32_t depth_ = 0;
  uint64_t range_bytes_ = 0;    // of the device that may be used
  uint64_t written_bytes_ = 0;  // and has been written
  DeviceProfile profile_;
  std::vector<ProbePoint> points_;
};

Status DeviceProbe::take_buffer(std::span<std::byte> memory) {
  buffer_ = align(memory, limits_.alignment_bytes);
  range_bytes_ = limits_.size_bytes;
  if (limits_.in_place && buffer_.size() < limits_.alignment_bytes) {
    if (Status borrowed = borrow_from_device(); !borrowed) return borrowed;
  }
  // Smaller requests where the memory would else hold only one or two of them.
  uint64_t size = std::min<uint64_t>(size_bytes_preferred, limits_.transfer_bytes_max);
  while (size > 64 << 10 && buffer_.size() / size < 4) size /= 2;
  size = round_down(std::min({size, buffer_.size(), range_bytes_}), limits_.alignment_bytes);
  if (size == 0) {
    return fail(Errc::too_large,
                fmt::format("device '{}' cannot be measured: {} of it and {} of memory for its data "
                            "are less than one request of {}",
                            device_.name(), format_bytes(range_bytes_), format_bytes(buffer_.size()),
                            format_bytes(limits_.alignment_bytes)));
  }
  size_bytes_ = static_cast<uint32_t>(size);
  depth_ = static_cast<uint32_t>(
      std::min<uint64_t>({depth_max, limits_.queue_depth_max, buffer_.size() / size_bytes_}));
  constexpr size_t page_bytes = 4096;
  if (limits_.in_place) {
    fill(buffer_, page_bytes);
  } else {
    buffer_ = buffer_.first(static_cast<size_t>(depth_) * size_bytes_);
    fill(buffer_, sizeof(uint64_t));
  }
  return {};
}

// The upper half of an in-place device becomes the other side; where it lies only a completion can say.
Status DeviceProbe::borrow_from_device() {
  const uint64_t half = round_down(limits_.size_bytes / 2, limits_.alignment_bytes);
  const auto length = static_cast<uint32_t>(
      std::min<uint64_t>(half, round_down(limits_.transfer_bytes_max, limits_.alignment_bytes)));
  const Nanos until = clock_.now() + stall_limit;
  IoRequest request;
  request.offset = ByteOffset(half);
  request.length_bytes = length;
  if (length == 0 || !device_.submit(request)) {
    return fail(Errc::too_large, fmt::format("device '{}' is too small to be measured", device_.name()));
  }
  IoCompletion completion;
  Device* const device = &device_;
  while (device_.poll({&completion, 1}) == 0) {
    if (clock_.now() >= until) {
      return fail(Errc::timed_out, fmt::format("device '{}' has not completed a read for {} s",
                                               device_.name(), stall_limit / std::chrono::seconds(1)));
    }
    transfer_.prepare_wait();
    waiter_.wait({&device, 1}, transfer_, until);
    transfer_.done_wait();
  }
  if (completion.code != Errc::ok || completion.in_place == nullptr) {
    return fail(completion.code == Errc::ok ? Errc::io_error : completion.code,
                fmt::format("device '{}': a read failed while it was measured: {}", device_.name(),
                            to_string(completion.code)));
  }
  buffer_ = {completion.in_place, completion.bytes};
  range_bytes_ = half;
  return {};
}

LoadShape DeviceProbe::shape(IoKind kind, uint32_t size_bytes, uint32_t depth) const {
  return {.kind = kind,
          .random = true,
          .size_bytes = size_bytes,
          .depth = depth,
          .range_bytes = written_bytes_,
          .buffer = buffer_};
}

Status DeviceProbe::measure(const ProbeOptions& options) {
  const Budget budget = budget_of(options);
  // In order, so that what has been written is one range; as much as there is time for, so that a drive's
  // cache does not hold what is read afterwards.
  LoadShape writing = shape(IoKind::write, size_bytes_, depth_);
  writing.random = false;
  writing.range_bytes = range_bytes_;
  Load writes(device_, transfer_, 0, writing);
  if (Status done = run(writes, budget.write); !done) return done;
  written_bytes_ = writes.covered_bytes();
  profile_.write_bytes_per_second = writes.bytes_per_second();

  Load reads(device_, transfer_, 0, shape(IoKind::read, size_bytes_, depth_));
  if (Status done = run(reads, budget.read); !done) return done;
  profile_.read_bytes_per_second = reads.bytes_per_second();

  if (Status done = measure_latency(budget.latency); !done) return done;
  return options.sweep ? sweep(budget.sweep) : Status{};
}

Status DeviceProbe::measure_latency(Nanos duration) {
  for (const IoKind kind : {IoKind::write, IoKind::read}) {
    Load load(device_, transfer_, 0, shape(kind, size_bytes_, 1));
    if (Status done = run(load, duration); !done) return done;
    (kind == IoKind::read ? profile_.read_latency : profile_.write_latency) = load.median_latency();
  }
  return {};
}

Status DeviceProbe::sweep(Nanos duration) {
  const Nanos each = duration / static_cast<Nanos::rep>(2 * sweep_sizes.size() * sweep_depths.size());
  for (const IoKind kind : {IoKind::write, IoKind::read}) {
    for (const uint32_t size : sweep_sizes) {
      if (size % limits_.alignment_bytes != 0 || size > limits_.transfer_bytes_max || size > written_bytes_)
        continue;
      for (const uint32_t depth : sweep_depths) {
        if (depth > limits_.queue_depth_max || depth > buffer_.size() / size) continue;
        Load load(device_, transfer_, 0, shape(kind, size, depth));
        if (Status done = run(load, each); !done) return done;
        if (load.depth_reached() < depth) continue;
        points_.push_back({kind, size, depth, load.bytes_per_second(), load.median_latency()});
      }
    }
  }
  profile_.queue_bytes = queue_bytes();
  return {};
}

// The fewest bytes in flight that come near the best rate, in requests of the full size: smaller ones may
// need fewer, but such a bound would leave one large request at a time. 0, the engine's own choice, in place:
// what bounds copies there are the transfer's workers.
uint64_t DeviceProbe::queue_bytes() const {
  if (limits_.in_place) return 0;
  const auto counts = [this](const ProbePoint& point) {
    return point.kind == IoKind::read && point.size_bytes == size_bytes_;
  };
  double best = 0;
  for (const ProbePoint& point : points_) {
    if (counts(point)) best = std::max(best, point.bytes_per_second);
  }
  uint64_t fewest = 0;
  for (const ProbePoint& point : points_) {
    if (!counts(point) || point.bytes_per_second < near_best * best) continue;
    const uint64_t bytes = static_cast<uint64_t>(point.size_bytes) * point.queue_depth;
    fewest = fewest == 0 ? bytes : std::min(fewest, bytes);
  }
  return fewest;
}

Load DeviceProbe::together_load(uint32_t tag, std::span<std::byte> memory) const {
  LoadShape reading = shape(IoKind::read, size_bytes_, depth_);
  memory = align(memory, limits_.alignment_bytes);
  if (memory.size() >= size_bytes_) reading.buffer = memory;
  reading.depth = static_cast<uint32_t>(std::min<uint64_t>(depth_, reading.buffer.size() / size_bytes_));
  return {device_, transfer_, tag, reading};
}

// Reading from all at once: storage straight into the memory where an engine would have it, memory by copies.
// Each device has memory of its own to read into.
Status measure_together(const Clock& clock, Waiter& waiter, Transfer& transfer,
                        std::vector<DeviceProbe>& probes, const std::vector<std::span<std::byte>>& staging,
                        std::span<std::byte> buffers, Nanos duration) {
  const size_t each = buffers.size() / probes.size();
  std::vector<Load> loads;
  for (size_t i = 0; i < probes.size(); ++i) {
    const std::span<std::byte> slice = buffers.subspan(i * each, each);
    loads.push_back(probes[i].together_load(static_cast<uint32_t>(i),
                                            staging[i].size() > slice.size() ? staging[i] : slice));
  }
  if (Status done = run_loads(clock, waiter, transfer, loads, duration); !done) return done;
  for (size_t i = 0; i < probes.size(); ++i) {
    probes[i].profile().together_bytes_per_second = loads[i].bytes_per_second();
  }
  return {};
}

}  // namespace

ProbeOptions quick_probe() {
  return {.per_device = std::chrono::milliseconds(700),
          .together = std::chrono::milliseconds(300),
          .sweep = false};
}

Result<ProbeResult> probe(const Clock& clock, Waiter& waiter, const std::vector<Device*>& devices,
                          const std::vector<std::span<std::byte>>& staging, std::span<std::byte> buffers,
                          const std::vector<std::span<std::byte>>& regions, Transfer& transfer,
                          const ProbeOptions& options) {
  KVPOOL_ASSERT(staging.size() == devices.size() && devices.size() <= devices_max);
  std::vector<DeviceProbe> probes;
  for (size_t i = 0; i < devices.size(); ++i) {
    if (Status started = devices[i]->start(regions); !started) return tl::unexpected(started.error());
    DeviceProbe& one = probes.emplace_back(clock, waiter, transfer, *devices[i]);
    // Storage is read into staging or straight into the consumers' buffers; whichever holds more requests.
    if (Status taken = one.take_buffer(staging[i].size() > buffers.size() ? staging[i] : buffers); !taken) {
      return tl::unexpected(taken.error());
    }
    if (Status done = one.measure(options); !done) return tl::unexpected(done.error());
  }
  if (options.together > Nanos{0} && !probes.empty()) {
    if (Status done = measure_together(clock, waiter, transfer, probes, staging, buffers, options.together);
        !done) {
      return tl::unexpected(done.error());
    }
  }
  ProbeResult result;
  for (DeviceProbe& one : probes) {
    result.profile.devices.push_back(std::move(one.profile()));
    result.points.push_back(std::move(one.points()));
  }
  // Storage is read straight into a host consumer's buffers and memory's own rate is that of the copies, so
  // there is no link that all share: 0 does not bound.
  result.profile.link_bytes_per_second = 0;
  result.profile.measured_at = utc_now();
  result.profile.conditions = machine_description();
  return result;
}

}  // namespace kvpool
