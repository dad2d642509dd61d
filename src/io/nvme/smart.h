// A drive's own record of its health. Pure.
// Source: NVM Express Base Specification 2.0c, figure 207 (SMART / Health Information, log page 02h).

#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace kvpool {

inline constexpr uint8_t nvme_smart_log = 0x02;
inline constexpr size_t nvme_smart_bytes = 512;

struct NvmeSmart {
  int temperature_celsius = 0;
  uint32_t spare_percent = 0;            // of the spare blocks that are left
  uint32_t spare_threshold_percent = 0;  // below which the drive warns
  uint32_t used_percent = 0;             // of its rated life; may pass 100
  uint64_t media_errors = 0;             // UINT64_MAX: that many or more
  uint32_t critical_warning = 0;         // bits; 0: none
};

[[nodiscard]] NvmeSmart parse_nvme_smart(std::span<const std::byte, nvme_smart_bytes> log);

}  // namespace kvpool
