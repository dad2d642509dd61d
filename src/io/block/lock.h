// The lock that says whose pool a file or a device is: an exclusive open-file-description lock over all of it
// (docs/format.md says why this one). Any thread; nothing blocks.

#pragma once

#include <string>

namespace kvpool {

// False: errno says why; EAGAIN or EACCES where another has it.
[[nodiscard]] bool lock_whole(int fd);
void unlock_whole(int fd);

// Whether anybody has it, asked without taking it. False also where that cannot be asked.
[[nodiscard]] bool is_locked(int fd);
[[nodiscard]] bool is_locked(const std::string& path);

}  // namespace kvpool
