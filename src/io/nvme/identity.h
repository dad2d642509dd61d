// What an NVMe namespace and its controller say of themselves. Pure: bytes in, numbers out; nothing that a
// drive says is trusted. Source: NVM Express Base Specification 2.0c, figures 275 (controller) and NVM
// Command Set 1.0c, figure 97 (namespace).

#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/result.h"
#include "io/discards.h"

namespace kvpool {

inline constexpr size_t nvme_identify_bytes = 4096;

struct NvmeIdentity {
  std::string model;
  std::string serial;
  std::string firmware;
  uint64_t size_bytes = 0;  // of the namespace
  uint32_t block_bytes = 0;
  uint32_t transfer_bytes_max = 0;  // of one command; UINT32_MAX: the controller sets no limit
  bool discards = false;            // knows Dataset Management
};

// Errc::unsupported for formats that kvpool cannot use: metadata beside the data, protection information,
// blocks below 512 bytes or above 64 KiB. The message begins with `path`.
[[nodiscard]] Result<NvmeIdentity> parse_nvme_identity(
    std::span<const std::byte, nvme_identify_bytes> controller,
    std::span<const std::byte, nvme_identify_bytes> ns, const std::string& path);

// What one Dataset Management command may name, by the controller's page for the NVM command set (Base
// Specification 2.0c, 5.17.2.6; NVM Command Set 1.0c, figure 100). Where a controller has no such page, pass
// zeros: it sets no limits of its own.
[[nodiscard]] DiscardLimits parse_nvme_discard_limits(std::span<const std::byte, nvme_identify_bytes> page,
                                                      uint32_t block_bytes);

}  // namespace kvpool
