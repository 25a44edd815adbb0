#include "lockstep/core/base/log.h"

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lockstep::base {
namespace {

using testing::MatchesRegex;

std::string logged(LogLevel level, std::string_view text) {
  testing::internal::CaptureStderr();
  log_line(level, text);
  return testing::internal::GetCapturedStderr();
}

const std::string kStamp = "[0-1][0-9][0-3][0-9] [0-2][0-9]:[0-5][0-9]:[0-6][0-9]\\.[0-9][0-9][0-9][0-9][0-9][0-9] ";

TEST(Log, OneLineHasLevelTimeIdentityAndText) {
  EXPECT_THAT(logged(LogLevel::kError, "text"), MatchesRegex("E" + kStamp + "text\n"));
  set_log_identity("rank 3/8");
  EXPECT_THAT(logged(LogLevel::kWarning, "peer is late"), MatchesRegex("W" + kStamp + "\\[rank 3/8\\] peer is late\n"));
  set_log_identity("");
  EXPECT_THAT(logged(LogLevel::kInfo, "text"), MatchesRegex("I" + kStamp + "text\n"));
}

TEST(Log, TextOfSeveralLinesStaysOneLine) {
  EXPECT_THAT(logged(LogLevel::kDebug, "a\nb\n\n"), MatchesRegex("D" + kStamp + "a b\n"));
}

TEST(Log, ArgumentsAreEvaluatedOnlyWhenTheLevelIsOn) {
  int evaluated = 0;
  testing::internal::CaptureStderr();
  LS_LOG(kDebug, "value ", ++evaluated);
  LS_LOG(kError, "value ", ++evaluated);
  const std::string output = testing::internal::GetCapturedStderr();
  EXPECT_EQ(evaluated, log_level() == LogLevel::kDebug ? 2 : 1);
  EXPECT_THAT(output, testing::HasSubstr(cat("value ", evaluated, "\n")));
}

}  // namespace
}  // namespace lockstep::base
