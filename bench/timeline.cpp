#include "bench/timeline.h"

#include <algorithm>

namespace kvpool::bench {
namespace {

double to_seconds(Nanos time) { return std::chrono::duration<double>(time).count(); }

}  // namespace

void Timeline::start(Nanos at) {
  start_ = at;
  width_ = width_min;
  covered_.fill(Nanos(0));
}

void Timeline::add_span(Nanos begin, Nanos end) {
  begin = std::max(begin, start_);
  if (end <= begin) return;
  make_room(end);
  for (size_t bin = bin_of(begin); begin < end; ++bin) {
    const Nanos until = std::min(end, begin_of(bin + 1));
    covered_[bin] += until - begin;
    begin = until;
  }
}

void Timeline::make_room(Nanos end) {
  while (end > begin_of(bins_max)) {
    for (size_t bin = 0; bin < bins_max / 2; ++bin) covered_[bin] = covered_[2 * bin] + covered_[2 * bin + 1];
    std::fill(covered_.begin() + bins_max / 2, covered_.end(), Nanos(0));
    width_ *= 2;
  }
}

// What a bin of the timeline holds is spread evenly over it.
std::vector<double> fractions_of(const Timeline& timeline, Nanos begin, Nanos length, size_t bins) {
  std::vector<double> fractions(bins);
  const double part_s = to_seconds(length) / static_cast<double>(bins);
  if (length <= Nanos(0)) return fractions;
  for (size_t from = 0; from < Timeline::bins_max; ++from) {
    const double filled = to_seconds(timeline.covered(from)) / to_seconds(timeline.width());
    const double first_s = to_seconds(timeline.begin_of(from) - begin);
    const double last_s = to_seconds(timeline.begin_of(from + 1) - begin);
    if (filled == 0 || last_s <= 0) continue;
    for (auto to = static_cast<size_t>(std::max(0.0, first_s / part_s)); to < bins; ++to) {
      const double left = std::max(first_s, static_cast<double>(to) * part_s);
      const double right = std::min(last_s, static_cast<double>(to + 1) * part_s);
      fractions[to] += filled * std::max(0.0, right - left) / part_s;
      if (last_s <= static_cast<double>(to + 1) * part_s) break;
    }
  }
  for (double& fraction : fractions) fraction = std::min(1.0, fraction);
  return fractions;
}

}  // namespace kvpool::bench
