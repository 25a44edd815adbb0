#include "lockstep/core/base/error.h"

#include <fcntl.h>

#include <cerrno>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/base/check.h"

namespace lockstep {
namespace {

using testing::HasSubstr;

TEST(Error, TypesCarryWhatTheCallerNeeds) {
  EXPECT_EQ(PeerError("gone", 3).rank(), 3);
  EXPECT_EQ(TimeoutError("late", 5, 1042).waiting_for(), 5);
  EXPECT_EQ(TimeoutError("late", 5, 1042).sequence(), 1042U);
  EXPECT_EQ(TimeoutError("late").waiting_for(), -1);
  EXPECT_EQ(CorruptionError("bad", "a.bin", 17).file(), "a.bin");
  EXPECT_EQ(CorruptionError("bad", "a.bin", 17).offset(), 17U);
  EXPECT_EQ(SystemError("open x", ENOENT).code(), ENOENT);
  EXPECT_STREQ(SystemError("open x", ENOENT).what(), "open x: No such file or directory");
}

TEST(Check, PassesInSilenceAndNamesTheConditionWhenItFails) {
  LS_CHECK(1 + 1 == 2, "arithmetic");
  try {
    LS_CHECK(1 + 1 == 3, "rank ", 4);
    FAIL();
  } catch (const InternalError& error) {
    EXPECT_THAT(error.what(), HasSubstr("error_test.cpp"));
    EXPECT_THAT(error.what(), HasSubstr("1 + 1 == 3: rank 4"));
  }
}

TEST(Check, RequireThrowsAUsageErrorWithTheJoinedText) {
  LS_REQUIRE(true, "nothing");
  try {
    LS_REQUIRE(false, "count ", 7, " is not ", 8);
    FAIL();
  } catch (const UsageError& error) {
    EXPECT_STREQ(error.what(), "count 7 is not 8");
  }
}

TEST(Check, SyscallRetriesInterruptionsAndReportsTheRest) {
  int calls = 0;
  const auto interrupted_twice = [&] {
    errno = EINTR;
    return ++calls < 3 ? -1 : 42;
  };
  EXPECT_EQ(LS_SYSCALL(interrupted_twice(), "call"), 42);
  EXPECT_EQ(calls, 3);
  try {
    LS_SYSCALL(::open("/nonexistent/file", O_RDONLY), "open /nonexistent/", "file");
    FAIL();
  } catch (const SystemError& error) {
    EXPECT_EQ(error.code(), ENOENT);
    EXPECT_STREQ(error.what(), "open /nonexistent/file: No such file or directory");
  }
}

}  // namespace
}  // namespace lockstep
