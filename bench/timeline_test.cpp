#include "bench/timeline.h"

#include <gtest/gtest.h>

#include <memory>
#include <numeric>

namespace kvpool::bench {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

constexpr Nanos origin = std::chrono::hours(1);

void expect_near(const std::vector<double>& values, const std::vector<double>& expected, double error) {
  ASSERT_EQ(values.size(), expected.size());
  for (size_t i = 0; i < values.size(); ++i) EXPECT_NEAR(values[i], expected[i], error) << i;
}

Nanos total(const Timeline& timeline) {
  Nanos sum{0};
  for (size_t bin = 0; bin < Timeline::bins_max; ++bin) sum += timeline.covered(bin);
  return sum;
}

TEST(Timeline, SpansAreFoundWhereTheyWere) {
  const auto timeline = std::make_unique<Timeline>();
  timeline->start(origin);
  timeline->add_span(origin + milliseconds(10), origin + milliseconds(25));
  timeline->add_span(origin + milliseconds(30), origin + milliseconds(40));
  EXPECT_EQ(timeline->width(), Timeline::width_min);
  EXPECT_EQ(total(*timeline), milliseconds(25));
  expect_near(fractions_of(*timeline, origin, milliseconds(50), 5), {0, 1, 0.5, 1, 0}, 0.002);
  // A window that begins later and ends earlier than the record.
  expect_near(fractions_of(*timeline, origin + milliseconds(20), milliseconds(15), 3), {1, 0, 1}, 0.004);
}

TEST(Timeline, WidensAndKeepsEverything) {
  const auto timeline = std::make_unique<Timeline>();
  timeline->start(origin);
  // A tenth of a second in each of ten, so that the bins widen between spans and within one.
  for (int second = 0; second < 10; ++second) {
    const Nanos begin = origin + std::chrono::seconds(second);
    timeline->add_span(begin, begin + milliseconds(100));
  }
  EXPECT_EQ(total(*timeline), std::chrono::seconds(1));
  EXPECT_GT(timeline->begin_of(Timeline::bins_max), origin + milliseconds(9100));
  // Half of the bins at least are in use: that is the detail that a window gets.
  EXPECT_LT(timeline->begin_of(Timeline::bins_max / 2), origin + milliseconds(9100));
  const auto tenths = fractions_of(*timeline, origin, std::chrono::seconds(10), 100);
  for (size_t bin = 0; bin < tenths.size(); ++bin)
    EXPECT_NEAR(tenths[bin], bin % 10 == 0 ? 1 : 0, 0.05) << bin;
}

TEST(Timeline, AStartForgets) {
  const auto timeline = std::make_unique<Timeline>();
  timeline->start(origin);
  timeline->add_span(origin, origin + std::chrono::seconds(60));
  timeline->start(origin + std::chrono::seconds(59));
  EXPECT_EQ(timeline->width(), Timeline::width_min);
  EXPECT_EQ(total(*timeline), Nanos(0));
  // A span that began before it counts from it on.
  timeline->add_span(origin, origin + std::chrono::seconds(59) + milliseconds(1));
  EXPECT_EQ(total(*timeline), milliseconds(1));
  timeline->add_span(origin, origin + std::chrono::seconds(1));
  EXPECT_EQ(total(*timeline), milliseconds(1));
}

TEST(Timeline, AnEmptyWindowHasNothing) {
  const auto timeline = std::make_unique<Timeline>();
  timeline->start(origin);
  timeline->add_span(origin, origin + microseconds(10));
  EXPECT_TRUE(fractions_of(*timeline, origin, milliseconds(1), 0).empty());
  expect_near(fractions_of(*timeline, origin, Nanos(0), 2), {0, 0}, 0);
}

}  // namespace
}  // namespace kvpool::bench
