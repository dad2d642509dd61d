// What a configuration names, opened: the only place that knows implementations is compose.cpp.

#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "api/pool.h"
#include "layout/profile.h"
#include "probe/probe.h"

namespace kvpool {

// How a benchmark takes part in the opening of devices.
struct DeviceHooks {
  // Makes the device for an entry of the configuration that is not memory, in place of its own kind; caps are
  // stacked over it as over any. Empty: the entry's own kind.
  std::function<Result<std::unique_ptr<Device>>(const DeviceConfig&)> make_storage;
  // Stacks something over a finished device, caps included. Empty: nothing.
  std::function<std::unique_ptr<Device>(std::unique_ptr<Device>)> decorate;
  // The same for what copies, made after the devices.
  std::function<std::unique_ptr<Transfer>(std::unique_ptr<Transfer>)> decorate_transfer;
};

// The configuration's devices over memory that is taken once, not started; for pools and for probing alike.
class DeviceSet {
 public:
  // Takes all memory (staging, consumers' buffers, memory devices), in huge pages where there are any.
  [[nodiscard]] static Result<std::unique_ptr<DeviceSet>> take_memory(const Config& config);
  virtual ~DeviceSet() = default;

  // Opens the devices anew: what was written is gone.
  [[nodiscard]] virtual Status open(const Config& config, const Clock& clock, const DeviceHooks& hooks) = 0;
  virtual void close() = 0;

  // In the configuration's order, caps on top.
  [[nodiscard]] virtual std::vector<Device*> devices() const = 0;
  [[nodiscard]] virtual std::vector<std::span<std::byte>> staging()
      const = 0;  // one a device; empty in place
  [[nodiscard]] virtual std::span<std::byte> buffers() const = 0;
  [[nodiscard]] virtual std::vector<std::span<std::byte>> regions() const = 0;
  // The pages that were obtained, for those who doubt a measurement.
  [[nodiscard]] virtual std::string memory_description() const = 0;
};

// compose() with hooks, and with a profile in place of a stored or a probed one.
[[nodiscard]] Result<std::unique_ptr<Pieces>> compose(Config config, const DeviceHooks& hooks,
                                                      std::optional<Profile> profile);

[[nodiscard]] std::unique_ptr<Transfer> make_transfer(const Config& config, const DeviceHooks& hooks);

// Measures the devices of a configuration. Caps that bind replace what was measured.
[[nodiscard]] Result<ProbeResult> probe_devices(const Config& config, DeviceSet& set, const Clock& clock,
                                                const ProbeOptions& options);

}  // namespace kvpool
