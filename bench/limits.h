// LimitMeter: what the devices of a configuration deliver to a host consumer, each alone and all together.
// The sum of the latter is the limit that a system is compared with. A memory device's bandwidth is the rate
// at which its bytes are copied into the consumer's buffers.
//
// It measures on devices of its own beside the configuration's: a piece of memory, and for a file device a
// file PATH.limit, written first and removed at the end. So it may run between the repeats of a system whose
// devices are open. There is nothing beside a passthrough device: that one it opens itself, and writes its
// beginning, so it must be gone before a system has the device.
//
// Thread: one. Failure: Result.

#pragma once

#include <memory>
#include <string>
#include <vector>

#include "bench/block_mover.h"
#include "bench/machine.h"

namespace kvpool::bench {

struct Limits {
  std::vector<double>
      read_bytes_per_second;  // each device's while all others read too; configuration's order
  [[nodiscard]] double together() const;
};

class LimitMeter {
 public:
  // duration: of each measurement. REQUIRES: machine outlives it.
  [[nodiscard]] static Result<std::unique_ptr<LimitMeter>> open(Machine& machine, const Config& config,
                                                                Nanos duration);
  ~LimitMeter();
  LimitMeter(const LimitMeter&) = delete;
  LimitMeter& operator=(const LimitMeter&) = delete;

  // All devices at once.
  [[nodiscard]] Result<Limits> measure();
  // Each alone, then all together: what placement needs where no profile is stored.
  [[nodiscard]] Result<Profile> profile();

 private:
  LimitMeter() = default;
  [[nodiscard]] Status fill();
  // Reads from the devices named; what each delivered, in bytes a second.
  [[nodiscard]] Result<std::vector<double>> read(const std::vector<bool>& reading);
  // Submits the next read of a device into a taken slot.
  void begin_read(uint32_t device, uint32_t slot);

  struct OneDevice {
    DeviceConfig config;
    uint64_t part_bytes = 0;
    uint64_t size_bytes = 0;  // whole parts
    uint64_t next_offset = 0;
    uint32_t depth = 0;
    std::vector<BlockPart> part;  // one
  };
  Nanos duration_{0};
  std::vector<std::string> files_;  // to be removed
  OpenedDevices opened_;
  std::vector<OneDevice> devices_;
  std::unique_ptr<BlockMover> mover_;
  std::vector<uint32_t> slot_devices_;
};

}  // namespace kvpool::bench
