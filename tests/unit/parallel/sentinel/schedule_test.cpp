#include "lockstep/parallel/sentinel/schedule.h"

#include <vector>

#include <gtest/gtest.h>

namespace lockstep::sentinel {
namespace {

std::vector<std::int64_t> state_steps(std::int64_t every, std::int64_t until) {
  std::vector<std::int64_t> steps;
  for (std::int64_t step = 1; step <= until; ++step) {
    if (state_is_due(step, every)) steps.push_back(step);
  }
  return steps;
}

TEST(SentinelSchedule, StateIsDueOftenFirstThenEveryManySteps) {
  EXPECT_EQ(state_steps(100, 350), (std::vector<std::int64_t>{1, 2, 4, 8, 16, 32, 64, 100, 200, 300}));
  EXPECT_EQ(state_steps(1, 4), (std::vector<std::int64_t>{1, 2, 3, 4}));
  EXPECT_EQ(state_steps(7, 22), (std::vector<std::int64_t>{1, 2, 4, 7, 14, 21}));
  EXPECT_EQ(state_steps(8, 20), (std::vector<std::int64_t>{1, 2, 4, 8, 16}));
}

TEST(SentinelSchedule, SamplesAreComparedAQuarterLaterEachTime) {
  SampleSchedule schedule;
  std::vector<std::int64_t> steps;
  for (std::int64_t step = 1; step <= 1'000'000; ++step) {
    if (schedule.is_due(step)) steps.push_back(step);
  }
  EXPECT_EQ(std::vector<std::int64_t>(steps.begin(), steps.begin() + 14),
            (std::vector<std::int64_t>{1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 18, 22, 27}));
  for (std::size_t i = 1; i < steps.size(); ++i)
    EXPECT_LE(steps[i] - steps[i - 1], std::max<std::int64_t>(1, steps[i - 1] / 4));
  EXPECT_LT(steps.size(), 75U);
}

}  // namespace
}  // namespace lockstep::sentinel
