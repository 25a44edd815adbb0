#include "lockstep/parallel/group/thread_share.h"

#include <gtest/gtest.h>

namespace lockstep::group {
namespace {

TEST(ThreadShare, SplitsAHostThatNobodyHasSplit) {
  EXPECT_EQ(thread_share(8, 8, 2, 0), 4);
  EXPECT_EQ(thread_share(8, 8, 3, 0), 2);
  EXPECT_EQ(thread_share(2, 2, 4, 0), 1);
  EXPECT_EQ(thread_share(8, 8, 1, 0), 8);
}

TEST(ThreadShare, ABoundProcessHasItsShareAlready) {
  EXPECT_EQ(thread_share(2, 8, 4, 0), 2);
  EXPECT_EQ(thread_share(1, 8, 8, 0), 1);
}

TEST(ThreadShare, ASocketMayBeSharedWithOtherRanks) {
  EXPECT_EQ(thread_share(32, 64, 4, 0), 16);
  EXPECT_EQ(thread_share(32, 64, 2, 0), 32);
}

TEST(ThreadShare, AQuotaIsSplitToo) {
  EXPECT_EQ(thread_share(8, 8, 2, 4), 2);
  EXPECT_EQ(thread_share(8, 8, 2, 3.5), 1);
  EXPECT_EQ(thread_share(8, 8, 4, 1.5), 1);
  EXPECT_EQ(thread_share(8, 8, 2, 100), 4);
  EXPECT_EQ(thread_share(8, 8, 1, 2.5), 2);
}

}  // namespace
}  // namespace lockstep::group
