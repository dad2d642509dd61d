// What the kernel does with a namespace's block device. Read from /sys and /proc; nothing is opened. Any
// thread.

#pragma once

#include <filesystem>
#include <string>

namespace kvpool {

// "has partitions", "cannot be looked at (...)", "belongs to dm-0", "is mounted", "is swap space"; empty
// where it is none of these. `block`: its folder, such as /sys/block/nvme0n1.
[[nodiscard]] std::string kernel_use_of(const std::filesystem::path& block);

}  // namespace kvpool
