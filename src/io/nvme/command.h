// NVMe commands as the kernel's passthrough takes them, and what their status codes mean. Pure.
// Source: NVM Express Base Specification 2.0c and NVM Command Set Specification 1.0c.

#pragma once

#include <linux/nvme_ioctl.h>

#include <cstdint>
#include <span>
#include <string>

#include "io/device.h"

namespace kvpool {

inline constexpr uint8_t nvme_opcode_flush = 0x00;
inline constexpr uint8_t nvme_opcode_write = 0x01;
inline constexpr uint8_t nvme_opcode_read = 0x02;
inline constexpr uint8_t nvme_opcode_dataset_management = 0x09;

// The read or write of `length_bytes` at `first_block`, to or from `buffer`.
// REQUIRES: length_bytes is a multiple of block_bytes, and at most 65536 blocks.
[[nodiscard]] nvme_uring_cmd nvme_command(IoKind kind, uint32_t namespace_id, uint64_t first_block,
                                          uint32_t length_bytes, uint32_t block_bytes,
                                          const std::byte* buffer);

// An entry of a Dataset Management command, as the drive reads it.
struct NvmeRange {
  uint32_t attributes = 0;
  uint32_t blocks = 0;
  uint64_t first_block = 0;
};
static_assert(sizeof(NvmeRange) == 16);

// Deallocates the ranges. REQUIRES: 1 to 256 of them; they stay where they are until the command has ended.
[[nodiscard]] nvme_uring_cmd nvme_discard_command(uint32_t namespace_id, std::span<const NvmeRange> ranges);

// What a status that is not 0 says, with its code: "status 0x281 (media error: unrecovered read error)".
[[nodiscard]] std::string nvme_status_text(uint32_t status);

}  // namespace kvpool
