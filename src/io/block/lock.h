// The lock that says whose pool a file or a device is: an exclusive open-file-description lock over all of it
// (docs/format.md says why this one). Any thread; nothing blocks.

#pragma once

#include <optional>
#include <string>

#include "base/result.h"
#include "io/pool_header.h"

namespace kvpool {

// False: errno says why; EAGAIN or EACCES where another has it.
[[nodiscard]] bool lock_whole(int fd);
void unlock_whole(int fd);

// Whether anybody has it, asked without taking it. False also where that cannot be asked.
[[nodiscard]] bool is_locked(int fd);
[[nodiscard]] bool is_locked(const std::string& path);

// What stands where a header would. No value: the file is shorter, or unreadable.
[[nodiscard]] std::optional<PoolHeader> read_pool_header(int fd);
// The error of who met another's lock; `header`: what he found there.
[[nodiscard]] tl::unexpected<Error> pool_in_use(const std::string& path,
                                                const std::optional<PoolHeader>& header);

}  // namespace kvpool
