// A progress bar on standard error, where that is a terminal; nothing in a pipe. One thread.

#pragma once

#include <cstdint>
#include <string>

#include "base/clock.h"

namespace kvpool {

class ProgressBar {
 public:
  explicit ProgressBar(std::string label);
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;
  ~ProgressBar();  // takes the bar away

  // Draws at most ten times a second. REQUIRES: done <= all, all > 0.
  void update(uint64_t done, uint64_t all);

 private:
  std::string label_;
  bool terminal_;
  bool drawn_ = false;
  Nanos drawn_at_{0};
};

}  // namespace kvpool
