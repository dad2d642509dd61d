// Machine: where benchmarks get their devices and pools from. The benches name no implementation of a seam;
// whoever composes the program does (apps/), and tests pass simulated ones.
//
// Thread: one. Failure: Result with the words of whoever refused.

#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "config/config.h"
#include "io/device.h"
#include "kvpool/kvpool.h"
#include "layout/profile.h"
#include "xfer/transfer.h"

namespace kvpool::bench {

// How a benchmark takes part in the opening of devices.
struct DeviceHooks {
  // Makes the device for a storage entry of the configuration in place of its own kind; caps are stacked over
  // it as over any. Empty: the entry's own kind.
  std::function<Result<std::unique_ptr<Device>>(const DeviceConfig&)> make_storage;
  // Stacks something over a finished device, caps included. Empty: nothing.
  std::function<std::unique_ptr<Device>(std::unique_ptr<Device>)> decorate;
  // The same for what copies, made after the devices.
  std::function<std::unique_ptr<Transfer>(std::unique_ptr<Transfer>)> decorate_transfer;
};

// Devices without a pool, not started. `owner` keeps all that the rest points to, and goes last.
struct OpenedDevices {
  std::shared_ptr<void> owner;
  std::vector<std::span<std::byte>> regions;  // for Device::start()
  std::span<std::byte> buffers;               // Config::buffer_bytes for the consumer, huge and faulted in
  std::unique_ptr<Transfer> transfer;
  std::vector<Device*> devices;  // in the order of the configuration
};

class Machine {
 public:
  Machine() = default;
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;
  virtual ~Machine() = default;

  [[nodiscard]] virtual Result<OpenedDevices> open_devices(const Config& config,
                                                           const DeviceHooks& hooks) = 0;
  // As kvpool_open(), with this profile in place of a stored or a probed one. kvpool_close() ends it.
  [[nodiscard]] virtual Result<kvpool_pool*> open_pool(const Config& config, const Profile& profile,
                                                       const DeviceHooks& hooks) = 0;
};

}  // namespace kvpool::bench
