#include "lockstep/parallel/group/thread_share.h"

#include <gtest/gtest.h>

namespace lockstep::group {
namespace {

TEST(ThreadShare, SplitsAHostThatNobodyHasSplit) {
  EXPECT_EQ(thread_share(8, 8, 2), 4);
  EXPECT_EQ(thread_share(8, 8, 3), 2);
  EXPECT_EQ(thread_share(2, 2, 4), 1);
  EXPECT_EQ(thread_share(8, 8, 1), 8);
}

TEST(ThreadShare, ABoundProcessHasItsShareAlready) {
  EXPECT_EQ(thread_share(2, 8, 4), 2);
  EXPECT_EQ(thread_share(1, 8, 8), 1);
}

}  // namespace
}  // namespace lockstep::group
