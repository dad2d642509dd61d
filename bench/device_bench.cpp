#include "bench/device_bench.h"

#include <fmt/format.h>
#include <sys/prctl.h>

#include <algorithm>
#include <cstring>

#include "base/assert.h"
#include "probe/load.h"

namespace kvpool::bench {
namespace {

// The least that any device takes at once.
constexpr uint32_t command_bytes_min = 128U << 10;
constexpr uint32_t commands_max = 1024;
constexpr uint64_t buffer_bytes_max = 256ULL << 20;
constexpr uint64_t written_bytes_max = 1ULL << 30;

uint32_t pieces(uint32_t size_bytes, uint32_t command_bytes) {
  return (size_bytes + command_bytes - 1) / command_bytes;
}

}  // namespace

Result<DeviceBenchResult> run_device_bench(Machine& machine, Config config,
                                           const DeviceBenchOptions& options) {
  KVPOOL_ASSERT(config.devices.size() == 1);
  config.devices[0].queue_depth =
      std::min(commands_max, options.depth * pieces(options.size_bytes, command_bytes_min));
  config.buffer_bytes = std::min<uint64_t>(uint64_t{options.depth} * options.size_bytes, buffer_bytes_max);
  auto opened = machine.open_devices(config, {});
  if (!opened) return tl::unexpected(opened.error());
  Device& device = *opened->devices[0];
  if (Status started = device.start(opened->regions); !started) return tl::unexpected(started.error());
  const DeviceLimits limits = device.limits();
  DeviceBenchResult result{.device = device.name()};
  result.command_bytes = std::min(options.size_bytes, limits.transfer_bytes_max);
  result.commands = std::min<uint32_t>(
      {options.depth * pieces(options.size_bytes, result.command_bytes), limits.queue_depth_max,
       static_cast<uint32_t>(opened->buffers.size() / result.command_bytes)});
  if (result.command_bytes % limits.alignment_bytes != 0) {
    return fail(Errc::invalid_argument, fmt::format("{}: {} bytes are no multiple of its {}", device.name(),
                                                    result.command_bytes, limits.alignment_bytes));
  }
  prctl(PR_SET_TIMERSLACK, 1000UL);  // as the engine's thread
  const SteadyClock clock;
  PollWaiter waiter(clock);
  LoadShape shape{.kind = IoKind::write,
                  .random = false,
                  .size_bytes = result.command_bytes,
                  .depth = result.commands,
                  .range_bytes = std::min<uint64_t>(limits.size_bytes, written_bytes_max) /
                                 result.command_bytes * result.command_bytes,
                  .buffer = opened->buffers};
  std::memset(opened->buffers.data(), 0x5a, opened->buffers.size());
  const auto run = [&](Nanos duration) -> Result<Load> {
    Load load(device, *opened->transfer, 0, shape);
    if (Status done = run_loads(clock, waiter, *opened->transfer, {&load, 1}, duration); !done) {
      return tl::unexpected(done.error());
    }
    return load;
  };
  // What was never written reads faster than it should.
  if (!options.write) {
    auto filled = run(options.duration);
    if (!filled) return tl::unexpected(filled.error());
    shape.range_bytes = filled->covered_bytes();
  }
  shape.kind = options.write ? IoKind::write : IoKind::read;
  shape.random = options.random;
  const CpuTime before = process_cpu_time();
  const Nanos began = clock.now();
  auto measured = run(options.duration);
  if (!measured) return tl::unexpected(measured.error());
  result.seconds = std::chrono::duration<double>(clock.now() - began).count();
  result.cpu = process_cpu_time() - before;
  result.bytes_per_second = measured->bytes_per_second();
  result.command_latency = measured->median_latency();
  return result;
}

}  // namespace kvpool::bench
