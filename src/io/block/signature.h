// What libblkid knows a block device to hold: a file system, a partition table, a member of a RAID or of a
// volume manager. Any thread; reads the device.

#pragma once

#include <string>

namespace kvpool {

struct Signature {
  std::string type;     // "ext4", "gpt", "linux_raid_member"; empty: none that is known
  std::string unknown;  // why that could not be told; else empty
};
[[nodiscard]] Signature find_signature(const std::string& device);

}  // namespace kvpool
