#include "apps/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

namespace kvpool {
namespace {

constexpr uint64_t width = 40;
constexpr Nanos interval = std::chrono::milliseconds(100);
constexpr const char* erase_line = "\r\x1b[K";

}  // namespace

ProgressBar::ProgressBar(std::string label)
    : label_(std::move(label)), terminal_(isatty(STDERR_FILENO) == 1) {}

ProgressBar::~ProgressBar() {
  if (drawn_) fmt::print(stderr, "{}", erase_line);
}

void ProgressBar::update(uint64_t done, uint64_t all) {
  if (!terminal_) return;
  const Nanos now = SteadyClock().now();
  if (drawn_ && now - drawn_at_ < interval) return;
  drawn_ = true;
  drawn_at_ = now;
  const auto filled = static_cast<size_t>(static_cast<double>(done) / static_cast<double>(all) * width);
  fmt::print(stderr, "{}{} [{}{}] {} of {}", erase_line, label_, std::string(filled, '#'),
             std::string(width - filled, ' '), done, all);
  std::fflush(stderr);
}

}  // namespace kvpool
