#include "io/nvme/smart.h"

#include <cstring>

namespace kvpool {
namespace {

constexpr int kelvin_of_zero_celsius = 273;

template <class T>
T number_at(std::span<const std::byte, nvme_smart_bytes> log, size_t offset) {
  T value;
  std::memcpy(&value, log.data() + offset, sizeof value);
  return value;
}

}  // namespace

NvmeSmart parse_nvme_smart(std::span<const std::byte, nvme_smart_bytes> log) {
  NvmeSmart smart{.temperature_celsius = number_at<uint16_t>(log, 1) - kelvin_of_zero_celsius,
                  .spare_percent = number_at<uint8_t>(log, 3),
                  .spare_threshold_percent = number_at<uint8_t>(log, 4),
                  .used_percent = number_at<uint8_t>(log, 5),
                  .media_errors = number_at<uint64_t>(log, 160),
                  .critical_warning = number_at<uint8_t>(log, 0)};
  if (number_at<uint64_t>(log, 168) != 0) smart.media_errors = UINT64_MAX;  // it is of 128 bits
  return smart;
}

}  // namespace kvpool
