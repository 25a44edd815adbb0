#include "lockstep/parallel/sentinel/diagnosis.h"

#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lockstep::sentinel {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

/// Ranks whose gradients before averaging are these, and after it what `after(before, mean, rank)` gives.
template <typename After>
std::vector<GradientSample> samples_of(const std::vector<std::vector<float>>& before, const After& after) {
  std::vector<GradientSample> samples(before.size());
  for (std::size_t i = 0; i < before[0].size(); ++i) {
    float mean = 0;
    for (const auto& rank : before) mean += rank[i] / static_cast<float>(before.size());
    for (std::size_t rank = 0; rank < before.size(); ++rank) {
      samples[rank].count = static_cast<std::uint32_t>(before[rank].size());
      samples[rank].before[i] = before[rank][i];
      samples[rank].after[i] = after(before[rank][i], mean, rank);
    }
  }
  return samples;
}

const std::vector<std::vector<float>> kThree = {{1, 0, -2, 4}, {3, 0, 6, 1}, {2, 0, 5, -2}};

TEST(SentinelDiagnosis, TheMeanIsFine) {
  const auto exact = samples_of(kThree, [](float, float mean, std::size_t) { return mean; });
  EXPECT_EQ(judge_gradients(exact).verdict, GradientVerdict::kMean);
  const auto rounded = samples_of(kThree, [](float, float mean, std::size_t) { return mean * 1.04F; });
  EXPECT_EQ(judge_gradients(rounded).verdict, GradientVerdict::kMean) << "as fp16 on the wire rounds, and more";
  const auto same = samples_of({{1, 2}, {1, 2}}, [](float before, float, std::size_t) { return before; });
  EXPECT_EQ(judge_gradients(same).verdict, GradientVerdict::kMean) << "equal batches: the mean is what each had";
  EXPECT_EQ(judge_gradients(std::vector<GradientSample>(2)).verdict, GradientVerdict::kMean) << "no sample";
}

TEST(SentinelDiagnosis, TheSumIsNot) {
  const auto sum = samples_of(kThree, [](float, float mean, std::size_t) { return 3 * mean; });
  EXPECT_EQ(judge_gradients(sum).verdict, GradientVerdict::kSummed);
  EXPECT_THAT(judge_gradients(sum).ranks, ElementsAre(0, 1, 2));
  const auto rounded = samples_of(kThree, [](float, float mean, std::size_t) { return 3 * mean * 1.01F; });
  EXPECT_EQ(judge_gradients(rounded).verdict, GradientVerdict::kSummed);
}

TEST(SentinelDiagnosis, WhatTheRankHadBeforeIsNot) {
  const auto local =
      samples_of(kThree, [](float before, float mean, std::size_t rank) { return rank == 1 ? before : mean; });
  EXPECT_EQ(judge_gradients(local).verdict, GradientVerdict::kLocal);
  EXPECT_THAT(judge_gradients(local).ranks, ElementsAre(1));
}

TEST(SentinelDiagnosis, LossyAveragesAndNumbersThatAreNoneAreNotJudged) {
  const auto zeroed = samples_of(kThree, [](float, float mean, std::size_t) { return mean > 2 ? mean : 0; });
  EXPECT_EQ(judge_gradients(zeroed).verdict, GradientVerdict::kUnknown);
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const auto overflow = samples_of({{kInfinity, 1}, {1, 1}}, [](float, float mean, std::size_t) { return mean; });
  EXPECT_EQ(judge_gradients(overflow).verdict, GradientVerdict::kMean);
  auto ragged = samples_of(kThree, [](float, float mean, std::size_t) { return 3 * mean; });
  ragged[1].count = 2;
  EXPECT_EQ(judge_gradients(ragged).verdict, GradientVerdict::kMean);
}

TEST(SentinelDiagnosis, MinorityIsWhoDiffersFromMost) {
  EXPECT_THAT(minority(std::vector<std::uint64_t>{5, 5, 5}), IsEmpty());
  EXPECT_THAT(minority(std::vector<std::uint64_t>{7, 5, 5}), ElementsAre(0));
  EXPECT_THAT(minority(std::vector<std::uint64_t>{7, 5}), ElementsAre(1)) << "a tie: rank 0 stands";
  EXPECT_THAT(minority(std::vector<std::uint64_t>{1, 2, 3, 2, 1, 2}), ElementsAre(0, 2, 4));
}

TEST(SentinelDiagnosis, NamesRanks) {
  EXPECT_EQ(ranks_text(std::vector<int>{3}), "rank 3");
  EXPECT_EQ(ranks_text(std::vector<int>{0, 2}), "ranks 0 and 2");
  EXPECT_EQ(ranks_text(std::vector<int>{0, 2, 5}), "ranks 0, 2 and 5");
  EXPECT_EQ(ranks_text(std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}), "ranks 0, 1, 2, 3, 4, 5, 6, 7 .. (10 ranks)");
}

TEST(SentinelDiagnosis, TheLikelyMistakeFollowsFromWhatElseIsKnown) {
  Divergence facts{.step = 200, .equal_until = 100, .tensor = "fc1.weight", .differing = 1, .tensors = 4, .ranks = {1}};
  EXPECT_THAT(divergence_text(facts), HasSubstr("parameter 'fc1.weight' on rank 1 is not bit-equal"));
  EXPECT_THAT(divergence_text(facts), HasSubstr("all were equal at step 100"));
  EXPECT_THAT(divergence_text(facts), HasSubstr("changes weights on some ranks only"));
  facts.gradients_differ = true;
  EXPECT_THAT(divergence_text(facts), HasSubstr("gradients are not averaged over all ranks"));
  facts.settings_difference = "SGD group 0: lr is 1 on rank 0 but 2 on rank 1";
  EXPECT_THAT(divergence_text(facts), HasSubstr("optimizer settings differ: SGD group 0: lr is 1"));
  facts.equal_until = 0;
  facts.step = 1;
  EXPECT_THAT(divergence_text(facts), HasSubstr("started from different weights"));
  facts.stepped_locally = {0, 1};
  facts.differing = 3;
  EXPECT_THAT(divergence_text(facts), HasSubstr("the optimizer of ranks 0 and 1 stepped on gradients that were not"));
  EXPECT_THAT(divergence_text(facts), HasSubstr("(3 of 4 tensors differ)"));
}

}  // namespace
}  // namespace lockstep::sentinel
