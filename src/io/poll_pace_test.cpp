#include "io/poll_pace.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/prng.h"

namespace kvpool {
namespace {

using std::chrono::microseconds;

// Commands one after the other, each found by the looks that the pace asks for.
struct Looked {
  Nanos late{0};  // summed
  Nanos busy{0};
  uint32_t looks = 0;
};

template <class Latency>
Looked run_alone(PollPace& pace, uint32_t commands, Latency&& latency_of) {
  Looked run;
  Nanos now{1'000'000};
  for (uint32_t i = 0; i < commands; ++i) {
    const Nanos began = now;
    const Nanos latency = latency_of(i);
    pace.submitted(now);
    EXPECT_LE(pace.next_look(), now) << "the look that sends it";
    pace.looked(now);
    while (pace.in_flight() > 0) {
      now = std::max(now + Nanos{100}, pace.next_look());
      ++run.looks;
      if (now >= began + latency) pace.completed(began, now);
      pace.looked(now);
    }
    run.late += now - (began + latency);
    run.busy += latency;
    now += microseconds(5);
  }
  return run;
}

TEST(PollPace, WaitsForNothingWhenIdle) {
  PollPace pace(0.05);
  EXPECT_EQ(pace.next_look(), never);
  pace.submitted(Nanos{10});
  pace.completed(Nanos{10}, Nanos{20});
  EXPECT_EQ(pace.next_look(), never);
}

TEST(PollPace, FindsCompletionsWithinItsSlackAndLooksSeldom) {
  for (const int us : {20, 100, 900, 5000}) {
    PollPace pace(0.05);
    Prng prng(7);
    const auto latency = [&](uint32_t) {
      return Nanos(microseconds(us)) * (90 + static_cast<int>(prng.next() % 21)) / 100;
    };
    (void)run_alone(pace, 50, latency);  // it learns
    const Looked run = run_alone(pace, 2000, latency);
    EXPECT_LT(run.late, run.busy / 20) << us;
    EXPECT_LT(run.looks, 2000U * 21) << us;
  }
}

TEST(PollPace, FindsOutThatADeviceGotFaster) {
  PollPace pace(0.05);
  (void)run_alone(pace, 100, [](uint32_t) { return Nanos(microseconds(900)); });
  (void)run_alone(pace, 200, [](uint32_t) { return Nanos(microseconds(50)); });
  const Looked run = run_alone(pace, 100, [](uint32_t) { return Nanos(microseconds(50)); });
  EXPECT_LT(run.late, run.busy / 10);
}

// A question is over, and the next one begins with a single command.
TEST(PollPace, ALoneCommandAfterALoadIsNotLookedForTooLate) {
  PollPace pace(0.05);
  (void)run_alone(pace, 100, [](uint32_t) { return Nanos(microseconds(100)); });
  Nanos now{1'000'000'000};
  for (int round = 0; round < 100; ++round) {
    for (int i = 0; i < 32; ++i) pace.submitted(now);
    pace.looked(now);
    EXPECT_LE(pace.next_look(), now + microseconds(100));
    const Nanos began = now;
    now += microseconds(1800);
    for (int i = 0; i < 32; ++i) pace.completed(began, now);
    pace.looked(now);
  }
  const Looked looked = run_alone(pace, 1, [](uint32_t) { return Nanos(microseconds(100)); });
  EXPECT_LT(looked.late, microseconds(6));
}

TEST(PollPace, LooksAllTheTimeWithoutSlack) {
  PollPace pace(0);
  for (Nanos now{1'000'000}; now < Nanos{9'000'000}; now += Nanos{1'000'000}) {
    pace.submitted(now);
    pace.looked(now);
    EXPECT_LE(pace.next_look(), now);
    pace.completed(now, now + Nanos{900'000});
  }
}

TEST(PollPace, ADeviceThatHangsIsLookedAtEveryMillisecond) {
  PollPace pace(0.05);
  (void)run_alone(pace, 100, [](uint32_t) { return Nanos(std::chrono::seconds(1)); });
  pace.submitted(Nanos{0});
  pace.looked(Nanos{0});
  EXPECT_LE(pace.next_look(), Nanos(std::chrono::milliseconds(1)));
}

}  // namespace
}  // namespace kvpool
