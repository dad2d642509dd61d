// What the kernel does with a block device, and how one is had alone. Any thread.

#pragma once

#include <filesystem>
#include <string>

namespace kvpool {

// "has partitions", "cannot be looked at (...)", "belongs to dm-0", "is mounted", "is swap space"; empty
// where it is none of these. `block`: its folder, such as /sys/block/nvme0n1 or that of a partition.
// Read from /sys and /proc; nothing is opened.
[[nodiscard]] std::string kernel_use_of(const std::filesystem::path& block);

// Opens the block device for this process alone (O_EXCL), so that nobody can mount it meanwhile. It waits for
// a second where only a process that has just ended may still have it: the kernel keeps a device as long as
// its last request is under way. -1, and errno: EBUSY where somebody has it. `block`: its folder.
[[nodiscard]] int claim_block_device(const std::string& device, int flags,
                                     const std::filesystem::path& block);

// The character device of the NVMe namespace that the block device is or belongs to, such as "/dev/ng0n1";
// empty where there is none.
[[nodiscard]] std::string nvme_character_device_of(const std::filesystem::path& block);

}  // namespace kvpool
