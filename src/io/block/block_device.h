// A block device that this process alone has, and what lies on it. docs/format.md specifies the rules.
//
// Thread: any; blocks on the device. Failure: a Result whose message names the path, what is wrong and what
// to do. Nothing is written here.

#pragma once

#include <string>

#include "base/result.h"
#include "io/block/whole_device.h"

namespace kvpool {

// A descriptor, for the caller to close: while it is open nobody can mount the device, use it otherwise, or
// take it as this does. Refused where the kernel, a pool or anybody else has it, and where it is read-only or
// zoned. `flags`: O_RDONLY or O_RDWR.
[[nodiscard]] Result<int> take_block_device(const std::string& path, int flags);

// Its size, and how it is read; from here on by direct I/O. `fd` must outlive it.
[[nodiscard]] Result<WholeDevice> measure_block_device(int fd, const std::string& path);

// Whether a pool has it: by this device, or by its NVMe namespace's character device, whose lock is another.
[[nodiscard]] bool is_block_pool_open(const std::string& path);

}  // namespace kvpool
