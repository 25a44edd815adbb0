#include "lockstep/parallel/train/progress.h"

#include <unistd.h>

#include <array>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lockstep::train {
namespace {

ProgressState make_state() {
  return {.epoch = 3,
          .epochs = 20,
          .step = 45,
          .steps = 100,
          .loss = 0.12345,
          .samples_per_second = 33684.2,
          .comm_share = 0.031,
          .seconds_left = 75};
}

TEST(ProgressText, Numbers) {
  EXPECT_EQ(format_duration(0), "0:00");
  EXPECT_EQ(format_duration(59.6), "1:00");
  EXPECT_EQ(format_duration(75), "1:15");
  EXPECT_EQ(format_duration(3675), "1:01:15");
  EXPECT_EQ(format_duration(-1), "?");
  EXPECT_EQ(format_count(7), "7");
  EXPECT_EQ(format_count(999.4), "999");
  EXPECT_EQ(format_count(33684.2), "33,684");
  EXPECT_EQ(format_count(1234567), "1,234,567");
  EXPECT_EQ(format_count(-123), "-123");
  EXPECT_EQ(format_count(-1234), "-1,234");
}

TEST(ProgressText, BarFillsTheLine) {
  EXPECT_EQ(format_bar(make_state(), 94, false),
            "epoch 3/20 [=========            ]  45 %  loss 0.1235  33,684 samples/s  wait 3.1 %  1:15 left");
  EXPECT_EQ(format_bar(make_state(), 200, false).find(']') - format_bar(make_state(), 200, false).find('['), 41u);
}

TEST(ProgressText, NeverWiderThanTheTerminal) {
  for (int columns = 0; columns < 120; ++columns) {
    EXPECT_LE(format_bar(make_state(), columns, false).size(), static_cast<std::size_t>(columns));
  }
  EXPECT_THAT(format_bar(make_state(), 75, false), ::testing::Not(::testing::HasSubstr("[")));
}

TEST(ProgressText, ColourOnlyWhereAsked) {
  EXPECT_THAT(format_bar(make_state(), 94, true), ::testing::HasSubstr("\x1b[32m====="));
  EXPECT_THAT(format_bar(make_state(), 94, false), ::testing::Not(::testing::HasSubstr("\x1b")));
}

TEST(ProgressText, Lines) {
  EXPECT_EQ(format_step(make_state()), "epoch 3/20  step 45/100  loss 0.1235  33,684 samples/s  wait 3.1 %  1:15 left");
  EpochRecord record;
  record.epoch = 3;
  record.epochs = 20;
  record.samples = 1440;
  record.train_loss = 0.25;
  record.seconds = 0.5;
  record.comm_share = 0.05;
  EXPECT_EQ(format_epoch(record), "epoch 3/20  loss 0.2500  2,880 samples/s  wait 5.0 %");
  record.test = Evaluation{.correct = 346, .total = 357};
  EXPECT_EQ(format_epoch(record), "epoch 3/20  loss 0.2500  test 96.92 % (346 of 357)  2,880 samples/s  wait 5.0 %");
}

/// What a Progress wrote to a pipe.
class ProgressToPipe : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_EQ(::pipe(fds_.data()), 0); }
  void TearDown() override { ::close(fds_[0]); }
  std::string finish() {
    ::close(fds_[1]);
    std::string text;
    std::array<char, 4096> buffer{};
    for (ssize_t got = 0; (got = ::read(fds_[0], buffer.data(), buffer.size())) > 0;) {
      text.append(buffer.data(), static_cast<std::size_t>(got));
    }
    return text;
  }
  StepRecord step_record() const {
    StepRecord record;
    record.step = 1;
    record.steps = 2;
    record.epoch = record.epochs = 1;
    record.samples = 10;
    record.loss = 0.5;
    record.step_seconds = 1;
    return record;
  }
  std::array<int, 2> fds_{};
};

TEST_F(ProgressToPipe, PlainLinesWhereThereIsNoTerminal) {
  const ProgressOptions options = detect_progress_options(fds_[1]);
  EXPECT_FALSE(options.bar);
  EXPECT_FALSE(options.color);
  {
    Progress progress({.fd = fds_[1], .interval = Duration::zero()});
    progress.step(step_record());
    progress.note("evaluated");
  }
  EXPECT_EQ(finish(), "epoch 1/1  step 1/2  loss 0.5000  10 samples/s  wait 0.0 %  0:01 left\nevaluated\n");
}

TEST_F(ProgressToPipe, StepsWithinTheIntervalAreSilent) {
  {
    Progress progress({.fd = fds_[1], .interval = std::chrono::hours(1)});
    progress.step(step_record());
  }
  EXPECT_EQ(finish(), "");
}

TEST_F(ProgressToPipe, TheBarIsErasedBeforeANoteAndAtTheEnd) {
  {
    Progress progress({.fd = fds_[1], .bar = true, .interval = Duration::zero()});
    progress.step(step_record());
    progress.note("note");
    progress.step(step_record());
  }
  const std::string text = finish();
  EXPECT_THAT(text, ::testing::StartsWith("\r\x1b[Kepoch 1/1 "));
  EXPECT_THAT(text, ::testing::HasSubstr("\r\x1b[Knote\n\r\x1b[Kepoch"));
  EXPECT_THAT(text, ::testing::EndsWith("\r\x1b[K"));
}

}  // namespace
}  // namespace lockstep::train
