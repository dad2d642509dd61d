// Profile: what each device of a pool was measured to deliver, and the link to the consumer.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"

namespace kvpool {

struct DeviceProfile {
  std::string name;
  std::string measured_as;           // kind, path, depth and caps: what the rates hold for; empty: not known
  double read_bytes_per_second = 0;  // alone, at the queue depth below; a cap that binds replaces it
  double write_bytes_per_second = 0;
  double together_bytes_per_second = 0;  // reading, while all other devices read too; 0: not measured
  Nanos read_latency{0};                 // one request of 1 MiB (or the largest there is), alone
  Nanos write_latency{0};
  uint64_t queue_bytes = 0;  // bytes in flight that reach the bandwidth
  bool storage = false;      // a file or a drive: survives the process; memory does not

  // What it adds to a retrieve, which reads from all devices at once.
  [[nodiscard]] double retrieve_bytes_per_second() const {
    return together_bytes_per_second > 0 ? together_bytes_per_second : read_bytes_per_second;
  }
};

// A cap that binds is the device's bandwidth: it is known better than anything measured. A cap is kept to
// within some percent, so what was measured close to it was bound by it. A measured rate of 0: not known.
[[nodiscard]] inline double bounded_by_cap(double measured, std::optional<uint64_t> cap) {
  constexpr double binds = 0.9;
  if (!cap) return measured;
  const auto rate = static_cast<double>(*cap);
  return measured <= 0 || measured > binds * rate ? rate : measured;
}

struct Profile {
  std::vector<DeviceProfile> devices;  // in the order of the configuration
  double link_bytes_per_second = 0;    // pool memory to the consumer; 0: not measured, does not bound
  std::string measured_at;             // ISO 8601, UTC
  std::string conditions;              // machine, kernel, page size
};

}  // namespace kvpool
