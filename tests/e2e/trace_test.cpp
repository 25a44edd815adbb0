// The trace of a training run.

#include <algorithm>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/e2e/training.h"

namespace lockstep::e2e {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct Span {
  std::string name;
  std::int64_t start = 0;  // nanoseconds, which the file's microseconds hold exactly
  std::int64_t end = 0;
};

std::int64_t nanoseconds(const json& microseconds) { return std::llround(microseconds.get<double>() * 1000); }

/// The spans of each rank's category, by start.
std::map<int, std::map<std::string, std::vector<Span>>> spans_of(const json& trace) {
  std::map<int, std::map<std::string, std::vector<Span>>> spans;
  for (const json& event : trace["traceEvents"]) {
    if (event["ph"] != "X") continue;
    const std::int64_t start = nanoseconds(event["ts"]);
    spans[event["pid"]][event["cat"]].push_back({event["name"], start, start + nanoseconds(event["dur"])});
  }
  for (auto& [rank, categories] : spans) {
    for (auto& [category, list] : categories) {
      std::ranges::stable_sort(list, {}, [](const Span& span) { return span.start; });
    }
  }
  return spans;
}

support::ProcessEnd run_traced(const std::string& file, int world, const Arguments& more) {
  Arguments flags = {"--max-steps", "6", "--trace", file};
  flags.insert(flags.end(), more.begin(), more.end());
  support::ProcessOptions options;
  options.deadline = std::chrono::seconds(120);
  return support::run_program(train_command("mlp", world, 8, flags), options);
}

TEST(TraceOfTraining, HasTheStepsOfAllRanksInOrder) {
  for (const int world : {1, 3}) {
    const io::TempDirectory directory;
    const std::string file = directory.path() + "/trace.json";
    const auto end = run_traced(file, world, {"--trace-steps", "2:3"});
    ASSERT_TRUE(end.ok()) << end.err;
    const json trace = json::parse(io::read_file(file));
    ASSERT_EQ(trace["ranks"].size(), static_cast<std::size_t>(world));
    auto spans = spans_of(trace);
    ASSERT_EQ(spans.size(), static_cast<std::size_t>(world));
    for (int rank = 0; rank < world; ++rank) {
      const std::vector<Span>& steps = spans[rank]["step"];
      ASSERT_EQ(steps.size(), 3u);
      const std::vector<Span>& compute = spans[rank]["compute"];
      std::size_t next = 0;
      for (std::size_t i = 0; i < steps.size(); ++i) {
        EXPECT_EQ(steps[i].name, "step " + std::to_string(i + 2));
        const std::int64_t before = i > 0 ? steps[i - 1].end : 0;
        EXPECT_LE(before, steps[i].start);
        std::vector<std::string> names;
        std::int64_t now = steps[i].start;
        for (; next < compute.size() && compute[next].start < steps[i].end; ++next) {
          EXPECT_GE(compute[next].start, now) << compute[next].name;
          EXPECT_GE(compute[next].end, compute[next].start);
          now = compute[next].end;
          names.push_back(compute[next].name);
        }
        EXPECT_LE(now, steps[i].end);
        EXPECT_THAT(names, ElementsAre("data", "zero_grad", "forward", "backward", "optimizer"));
      }
      EXPECT_EQ(next, compute.size());
      for (const auto& [category, list] : spans[rank]) {
        for (const Span& span : list) {
          EXPECT_TRUE(std::ranges::any_of(
              steps, [&](const Span& step) { return step.start <= span.start && span.end <= step.end; }))
              << category << " " << span.name << " of rank " << rank;
        }
      }
    }
  }
}

TEST(TraceOfTraining, StepsOfSeveralRanksOverlap) {
  // All ranks end a backward together: a step of one cannot begin after the same step of another has ended.
  const io::TempDirectory directory;
  const std::string file = directory.path() + "/trace.json";
  ASSERT_TRUE(run_traced(file, 2, {"--trace-steps", "1:6"}).ok());
  auto spans = spans_of(json::parse(io::read_file(file)));
  ASSERT_EQ(spans[0]["step"].size(), 6u);
  ASSERT_EQ(spans[1]["step"].size(), 6u);
  for (std::size_t i = 0; i < 6; ++i) {
    EXPECT_LT(spans[0]["step"][i].start, spans[1]["step"][i].end);
    EXPECT_LT(spans[1]["step"][i].start, spans[0]["step"][i].end);
  }
}

TEST(TraceOfTraining, ARunThatEndsEarlierHasFewerSteps) {
  const io::TempDirectory directory;
  const std::string file = directory.path() + "/trace.json";
  ASSERT_TRUE(run_traced(file, 1, {"--trace-steps", "6:100"}).ok());
  EXPECT_EQ(spans_of(json::parse(io::read_file(file)))[0]["step"].size(), 1u);
}

TEST(TraceOfTraining, LeavesTheLossesAsTheyAre) {
  const io::TempDirectory directory;
  const Arguments plain = {"--max-steps", "4"};
  const Arguments traced = {"--max-steps", "4", "--trace", directory.path() + "/trace.json", "--trace-steps", "2:2"};
  EXPECT_EQ(train(directory, "mlp", 2, 8, traced), train(directory, "mlp", 2, 8, plain));
}

TEST(TraceOfTraining, WhatCannotBeIsSaidBeforeTheRun) {
  const io::TempDirectory directory;
  const std::string file = directory.path() + "/trace.json";
  const auto refused = [&](const std::string& where, int world, const std::string& steps) {
    const auto end = run_traced(where, world, {"--trace-steps", steps});
    EXPECT_EQ(end.exit_code, 2) << end.err;
    EXPECT_EQ(std::ranges::count(end.err, '\n'), 1) << end.err;
    EXPECT_FALSE(std::filesystem::exists(file));
    return end.err;
  };
  EXPECT_THAT(refused(file, 1, "7:1"),
              HasSubstr("--trace-steps 7:1: begins behind the last step; the run has 6 steps"));
  EXPECT_THAT(refused(file, 1, "0:1"), HasSubstr("--trace-steps '0:1': expected FIRST:COUNT"));
  const std::string missing = directory.path() + "/missing/trace.json";
  EXPECT_THAT(refused(missing, 1, "1:1"), HasSubstr("--trace '" + missing + "': there is no directory"));
}

}  // namespace
}  // namespace lockstep::e2e
