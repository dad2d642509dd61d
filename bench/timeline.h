// Timeline: for how long something went on in each stretch of time, in a fixed number of bins. When it runs
// past the last bin, neighbours are joined and every bin is twice as wide; so it never allocates, and a short
// run keeps its detail.
//
// Thread: one at a time. Failure: none.

#pragma once

#include <array>
#include <cstddef>
#include <vector>

#include "base/clock.h"

namespace kvpool::bench {

class Timeline {
 public:
  static constexpr size_t bins_max = 4096;
  static constexpr Nanos width_min{16384};  // 67 ms in all

  // Forgets everything; the first bin begins at this time. What comes before it is left out.
  void start(Nanos at);
  // It went on from begin to end: that is added to the bins that it covers.
  void add_span(Nanos begin, Nanos end);

  [[nodiscard]] Nanos width() const { return width_; }
  [[nodiscard]] Nanos begin_of(size_t bin) const { return start_ + width_ * bin; }
  [[nodiscard]] Nanos covered(size_t bin) const { return covered_[bin]; }

 private:
  void make_room(Nanos end);  // widens the bins until the last one ends after this time
  [[nodiscard]] size_t bin_of(Nanos at) const { return static_cast<size_t>((at - start_) / width_); }

  Nanos start_{0};
  Nanos width_{width_min};
  std::array<Nanos, bins_max> covered_{};
};

// The fraction of each of `bins` equal parts of [begin, begin + length) that was covered, if the spans did
// not overlap.
[[nodiscard]] std::vector<double> fractions_of(const Timeline& timeline, Nanos begin, Nanos length,
                                               size_t bins);

}  // namespace kvpool::bench
