#include "lockstep/core/base/deadline.h"

#include <gtest/gtest.h>

namespace lockstep {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;

TEST(Deadline, AfterATimeoutOfZeroOrLessHasPassed) {
  EXPECT_TRUE(Deadline::after(Duration::zero()).passed());
  EXPECT_TRUE(Deadline::after(milliseconds(-5)).passed());
  EXPECT_EQ(Deadline::after(milliseconds(-5)).left(), Duration::zero());
}

TEST(Deadline, ReportsItsTimeoutAndTheTimeLeft) {
  const Deadline deadline = Deadline::after(hours(1));
  EXPECT_FALSE(deadline.passed());
  EXPECT_TRUE(deadline.bounded());
  EXPECT_EQ(deadline.timeout(), Duration(hours(1)));
  EXPECT_LE(deadline.left(), Duration(hours(1)));
  EXPECT_GT(deadline.left(), Duration(milliseconds(59 * 60 * 1000)));
}

TEST(Deadline, CutShortHasPassedAndSaysHowLongItTook) {
  const Deadline cut = Deadline::after(hours(1)).cut_short();
  EXPECT_TRUE(cut.passed());
  EXPECT_GE(cut.timeout(), Duration::zero());
  EXPECT_LT(cut.timeout(), Duration(hours(1)));
  const Deadline passed = Deadline::after(milliseconds(-5));
  EXPECT_EQ(passed.cut_short().timeout(), passed.timeout());
  EXPECT_FALSE(Deadline::none().cut_short().passed());
}

TEST(Deadline, NoneNeverPasses) {
  EXPECT_FALSE(Deadline::none().passed());
  EXPECT_FALSE(Deadline::none().bounded());
  EXPECT_EQ(Deadline::none().left(), Duration::max());
}

TEST(Deadline, TheLongestTimeoutDoesNotWrapAround) {
  const Deadline deadline = Deadline::after(Duration::max());
  EXPECT_FALSE(deadline.passed());
  EXPECT_GT(deadline.left(), Duration(hours(24)));
}

}  // namespace
}  // namespace lockstep
