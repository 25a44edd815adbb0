#include "lockstep/parallel/train/metrics.h"

#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "lockstep/core/base/error.h"
#include "lockstep/core/io/file.h"

namespace lockstep::train {
namespace {

StepRecord make_step(std::int64_t step, double loss) {
  StepRecord record;
  record.step = step;
  record.steps = 2;
  record.epoch = 1;
  record.samples = 64;
  record.loss = loss;
  record.step_seconds = 0.002;
  record.comm_wait_seconds = 0.0005;
  return record;
}

class Metrics : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const { return directory_.path() + "/" + name; }
  std::string write(const std::string& name, const std::string& text) const {
    std::ofstream(path(name)) << text;
    return path(name);
  }

 private:
  io::TempDirectory directory_;
};

TEST_F(Metrics, LinesAreJsonAndNumbersReadBackExactly) {
  const double loss = 0.1 + 0.2;
  MetricsWriter writer(path("m.jsonl"));
  writer.step(make_step(1, loss));
  // Each line is in the file as soon as it was written.
  EXPECT_THAT(read_losses(path("m.jsonl")), ::testing::ElementsAre(loss));
  writer.step(make_step(2, 1.0 / 3));
  EpochRecord epoch;
  epoch.epoch = 1;
  epoch.step = 2;
  epoch.train_loss = 0.5;
  epoch.test = Evaluation{.correct = 3, .total = 4, .mean_loss = 0.7};
  writer.epoch(epoch);
  writer.line(R"({"event":"summary","model":"lenet"})");

  std::ifstream in(path("m.jsonl"));
  std::vector<nlohmann::json> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(nlohmann::json::parse(line));
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[0]["event"], "step");
  EXPECT_EQ(lines[0]["step_ms"], 2.0);
  EXPECT_EQ(lines[0]["comm_wait_ms"], 0.5);
  EXPECT_EQ(lines[0]["samples_per_s"], 32000.0);
  EXPECT_EQ(lines[2]["test_accuracy"], 0.75);
  EXPECT_EQ(lines[2]["test_correct"], 3);
  EXPECT_THAT(read_losses(path("m.jsonl")), ::testing::ElementsAre(loss, 1.0 / 3));
  EXPECT_EQ(read_summary(path("m.jsonl")), R"({"event":"summary","model":"lenet"})");
}

TEST_F(Metrics, BadFilesAreNamedWithTheirLine) {
  EXPECT_THROW(read_losses(path("none.jsonl")), SystemError);
  EXPECT_THROW(MetricsWriter(path("none/m.jsonl")), SystemError);
  const std::string step = R"({"event":"step","step":1,"loss":1})"
                           "\n";
  for (const std::string& text :
       {step + "{\"event\"", step + "[]", step + "{\"event\":7}", step + R"({"event":"step","step":2})", step + step}) {
    const std::string file = write("bad.jsonl", text);
    try {
      read_losses(file);
      FAIL() << text;
    } catch (const CorruptionError& error) {
      EXPECT_THAT(error.what(), ::testing::HasSubstr("bad.jsonl:2"));
    }
  }
  EXPECT_THROW(read_summary(write("cut.jsonl", step)), CorruptionError);
}

TEST(CompareLosses, FindsTheLargestDifference) {
  const LossDifference difference = compare_losses({1, 2, 3}, {1, 2.5, 2.75});
  EXPECT_EQ(difference.steps, 3);
  EXPECT_EQ(difference.largest, 0.5);
  EXPECT_EQ(difference.worst_step, 2);
  EXPECT_EQ(compare_losses({}, {}).worst_step, 0);
  EXPECT_EQ(compare_losses({1}, {1}).largest, 0);
  EXPECT_THROW(compare_losses({1, 2}, {1}), UsageError);
}

}  // namespace
}  // namespace lockstep::train
