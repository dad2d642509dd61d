// The median of what a bench has measured.

#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

namespace kvpool {

// 0: of nothing.
[[nodiscard]] inline double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::ranges::sort(values);
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

}  // namespace kvpool
