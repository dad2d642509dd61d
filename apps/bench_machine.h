// The machine's own devices and pools, for benchmarks: bench::Machine over what kvpool_open() composes.
//
// Thread and failure: as bench::Machine.

#pragma once

#include "bench/machine.h"

namespace kvpool {

class BenchMachine final : public bench::Machine {
 public:
  [[nodiscard]] Result<bench::OpenedDevices> open_devices(const Config& config,
                                                          const bench::DeviceHooks& hooks) override;
  [[nodiscard]] Result<kvpool_pool*> open_pool(const Config& config, const Profile& profile,
                                               const bench::DeviceHooks& hooks) override;
};

}  // namespace kvpool
