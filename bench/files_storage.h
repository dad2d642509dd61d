// FilesStorage: the chunk files that stand in for the storage devices of a configuration, for the systems
// that keep documents in files.
//
// Thread: one. Failure: Result. It must outlive the devices that it made.

#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "bench/files_device.h"
#include "config/config.h"

namespace kvpool::bench {

// False for block devices: what is made beside a path would lie in /dev.
[[nodiscard]] bool lies_in_a_file(const DeviceConfig& device);

class FilesStorage {
 public:
  // The device in place of `device`: files of chunk_bytes in PATH.files/.
  [[nodiscard]] Result<std::unique_ptr<Device>> make(const DeviceConfig& device, uint64_t chunk_bytes);
  // Drops all of it from the page cache, and checks that it is gone. `forget`: see FilesDevice::set_forget.
  [[nodiscard]] Status make_cold(bool forget);
  // For how long its disks had something to do, by the kernel's count, since they are there. None: the file
  // system's disk is not known to it.
  [[nodiscard]] std::optional<Nanos> disk_busy() const;
  [[nodiscard]] bool empty() const { return devices_.empty(); }

 private:
  std::vector<std::unique_ptr<FilesDirectory>> directories_;
  std::vector<FilesDevice*> devices_;  // owned by whoever asked for them
};

}  // namespace kvpool::bench
