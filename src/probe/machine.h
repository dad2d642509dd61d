// Machine: what a measurement was made on, in words, and when. Any thread; never fails, what is not known is
// left out.

#pragma once

#include <string>

namespace kvpool {

// "Linux 6.1.0, AMD EPYC 9654, 8 CPUs"
[[nodiscard]] std::string machine_description();
// ISO 8601, UTC, to the second.
[[nodiscard]] std::string utc_now();

}  // namespace kvpool
