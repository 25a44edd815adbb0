// What the sentinel makes of samples and optimizers, and how it says so.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/base/error.h"
#include "lockstep/parallel/sentinel/sentinel.h"
#include "tests/unit/parallel/sentinel/training.h"

namespace lockstep {
namespace {

using test::kinds_of;
using test::only;
using test::run_rank_threads;
using test::texts_of;
using test::Training;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using Group = std::shared_ptr<ProcessGroup>;

// ---- samples ----

/// Steps at which `training` found the same samples, up to `steps`; `batch(step)` is this rank's.
template <typename Batch>
std::int64_t step_of_same_samples(Training& training, int steps, const Batch& batch) {
  for (int i = 0; i < steps; ++i) training.step(batch(i));
  if (training.findings().empty()) return 0;
  const Finding found = only(training, FindingKind::kSameSamples);
  EXPECT_THAT(found.text, HasSubstr("see the same samples"));
  EXPECT_THAT(found.text, HasSubstr("use DistributedSampler"));
  return found.step;
}

/// Rows 8 i to 8 i + 7 of `order`, out of 400 samples.
at::Tensor batch_of(const at::Tensor& order, int i) {
  const at::Tensor samples = order.slice(0, i % 50 * 8, i % 50 * 8 + 8);
  return at::stack({samples, samples.square(), samples.cos()}, 1).to(at::kFloat).div_(400);
}

at::Tensor shuffled(std::int64_t size, std::uint64_t seed) {
  auto generator = at::detail::createCPUGenerator(seed);
  return at::randperm(size, generator, at::kLong).to(at::kDouble);
}

TEST(Sentinel, FindsALoaderThatIsNotShardedAtTheSecondStep) {
  run_rank_threads(3, [](const Group& group) {
    Training training(group);
    const at::Tensor order = at::arange(400, at::kDouble);
    EXPECT_EQ(step_of_same_samples(training, 10, [&](int i) { return batch_of(order, i); }), 2);
    EXPECT_THAT(training.findings()[0].ranks, ElementsAre(0, 1, 2));
  });
}

TEST(Sentinel, FindsALoaderThatShufflesForEachRankBeforeTheEpochEnds) {
  run_rank_threads(2, [](const Group& group) {
    Training training(group);
    const at::Tensor order = shuffled(400, static_cast<std::uint64_t>(group->rank()));
    const std::int64_t step = step_of_same_samples(training, 50, [&](int i) { return batch_of(order, i); });
    EXPECT_GT(step, 2);
    EXPECT_LT(step, 50);
  });
}

TEST(Sentinel, FindsTwoRanksWithOneShard) {
  run_rank_threads(4, [](const Group& group) {
    Training training(group);
    const int shard = group->rank() % 3;  // Ranks 0 and 3 have one.
    const at::Tensor order = shuffled(1200, 5).slice(0, shard * 400, shard * 400 + 400);
    EXPECT_EQ(step_of_same_samples(training, 10, [&](int i) { return batch_of(order, i); }), 2);
    EXPECT_THAT(training.findings()[0].ranks, ElementsAre(0, 3));
  });
}

TEST(Sentinel, ConstantBatchesAreFine) {
  for (const bool same : {true, false}) {
    run_rank_threads(2, [same](const Group& group) {
      Training training(group);
      const at::Tensor order = shuffled(400, same ? 7 : static_cast<std::uint64_t>(group->rank()));
      const at::Tensor batch = at::cat({batch_of(order, 0), batch_of(order, 1), batch_of(order, 2), batch_of(order, 3),
                                        batch_of(order, 4), batch_of(order, 5)});
      EXPECT_EQ(step_of_same_samples(training, 30, [&](int) { return batch; }), 0);
    });
  }
}

TEST(Sentinel, InputsThatAreNoSamplesAreLeftAlone) {
  run_rank_threads(2, [](const Group& group) {
    Training training(group);
    for (int i = 0; i < 10; ++i) {
      training.sentinel_.before_forward({});
      training.sentinel_.before_forward({at::ones({}).add_(i)});
      training.sentinel_.before_forward({at::arange(40).add_(40 * i)});
      training.sentinel_.after_backward(true);
    }
    EXPECT_THAT(training.findings(), IsEmpty()) << texts_of(training.findings());
  });
}

// ---- optimizers ----

TEST(Sentinel, FindsALearningRateThatDiffers) {
  run_rank_threads(3, [](const Group& group) {
    Training training(group);
    training.sentinel_.watch(training.optimizer_);
    for (int i = 0; i < 5; ++i) training.step(training.fresh_batch());
    EXPECT_THAT(training.findings(), IsEmpty()) << texts_of(training.findings());
    if (group->rank() == 2) training.optimizer_.param_groups()[0].options().set_lr(0.05);
    for (int i = 0; i < 5; ++i) training.step(training.fresh_batch());
    ASSERT_THAT(kinds_of(training.findings()),
                ElementsAre(FindingKind::kOptimizerSettings, FindingKind::kParametersDiffer));
    const Finding& settings = training.findings()[0];
    EXPECT_EQ(settings.step, 8);
    EXPECT_THAT(settings.ranks, ElementsAre(2));
    EXPECT_THAT(settings.text, HasSubstr("SGD group 0: lr is 0.1 on rank 0 but 0.05 on rank 2"));
    EXPECT_THAT(training.findings()[1].text, HasSubstr("likely because optimizer settings differ: SGD group 0: lr"));
  });
}

TEST(Sentinel, FindsARankWhoseOptimizerIsNotThere) {
  run_rank_threads(2, [](const Group& group) {
    Training training(group);
    if (group->rank() == 0) training.sentinel_.watch(training.optimizer_);
    training.step(training.fresh_batch());
    EXPECT_THAT(only(training, FindingKind::kOptimizerSettings).text,
                HasSubstr("where those of rank 1 have 'nothing'"));
  });
}

TEST(Sentinel, FindsAnOptimizerOfOtherParameters) {
  for (const int world_size : {1, 2}) {
    run_rank_threads(world_size, [](const Group& group) {
      const Training other(group);
      Training training(group);
      training.sentinel_.watch(other.optimizer_);
      training.step(training.fresh_batch());
      const Finding found = only(training, FindingKind::kOptimizerParameters);
      EXPECT_EQ(found.tensor, "fc1.weight");
      EXPECT_THAT(found.text, HasSubstr("hold none of the 4 parameters that get gradients: 'fc1.weight' is missing"));
    });
  }
}

TEST(Sentinel, FindsAParameterThatNoOptimizerHolds) {
  run_rank_threads(2, [](const Group& group) {
    Training training(group);
    const torch::optim::SGD first(training.net_->fc1->parameters(), 0.1);
    torch::optim::SGD second({training.net_->fc2->weight}, 0.1);
    training.sentinel_.watch(first);
    training.sentinel_.watch(second);
    training.step(training.fresh_batch());
    const Finding found = only(training, FindingKind::kOptimizerParameters);
    EXPECT_EQ(found.tensor, "fc2.bias");
    EXPECT_THAT(found.text, HasSubstr("hold not all 4 parameters that get gradients: 'fc2.bias' is missing;"));
  });
}

// ---- how it is said ----

TEST(Sentinel, AMistakeOfOneRankIsKnownToAllAtTheNextExchangeAndSaidOnce) {
  testing::internal::CaptureStderr();
  run_rank_threads(3, [](const Group& group) {
    Training training(group);
    training.step(training.fresh_batch());
    if (group->rank() == 2) training.step_alone(training.fresh_batch());
    for (int i = 0; i < 4; ++i) training.step(training.fresh_batch());
    for (const Finding& finding : training.findings()) {
      if (finding.kind != FindingKind::kGradientsNotAveraged) continue;
      EXPECT_EQ(finding.tensor, "fc1.weight");
      EXPECT_THAT(finding.ranks, ElementsAre(2));
    }
    EXPECT_THAT(kinds_of(training.findings()),
                testing::UnorderedElementsAre(FindingKind::kGradientsNotAveraged, FindingKind::kParametersDiffer));
  });
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 2) << log;
  EXPECT_THAT(log, HasSubstr("step 2: on rank 2: parameter 'fc1.weight' was stepped on"));
  EXPECT_THAT(log, HasSubstr("step 2: parameter 'fc1.weight' on rank 2 is not bit-equal"));
}

TEST(Sentinel, ThrowsTheSameOnEveryRankWhereAsked) {
  run_rank_threads(3, [](const Group& group) {
    Training training(group, {.action = SentinelAction::kThrow}, group->rank() == 0 ? 2 : 1);
    try {
      training.step(training.fresh_batch());
      ADD_FAILURE() << "rank " << group->rank() << " went on";
    } catch (const MismatchError& error) {
      EXPECT_THAT(error.what(), HasSubstr("parameter 'fc1.weight' on rank 0 is not bit-equal"));
      EXPECT_EQ(training.findings().front().text, error.what());
    }
    training.step(training.fresh_batch());  // Each kind is said once; the group goes on.
  });
}

TEST(Sentinel, EndsTheGroupWhereOneRankFindsItsOwnMistake) {
  run_rank_threads(2, [](const Group& group) {
    Training training(group, {.action = SentinelAction::kThrow});
    training.step(training.fresh_batch());
    if (group->rank() == 1) {
      training.step_alone(training.fresh_batch());
      EXPECT_THROW(training.step(training.fresh_batch()), MismatchError);
      return;
    }
    try {
      training.step(training.fresh_batch());
      ADD_FAILURE() << "rank 0 went on";
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("was stepped on after a backward whose gradients were not averaged"));
    }
  });
}

TEST(Sentinel, SwitchedOffItNeitherLooksNorCommunicates) {
  run_rank_threads(2, [](const Group& group) {
    Training training(group, {.enabled = false}, static_cast<std::uint64_t>(group->rank()));
    EXPECT_FALSE(training.sentinel_.wants_gradients());
    if (group->rank() == 0) training.sentinel_.after_backward(true);  // A collective would wait for rank 1.
    training.step_alone(training.fresh_batch());
    training.step(training.fresh_batch());
    EXPECT_THAT(training.findings(), IsEmpty());
  });
}

TEST(Sentinel, RefusesWhatMakesNoSense) {
  run_rank_threads(1, [](const Group& group) {
    EXPECT_THROW(Sentinel(group, {}, {.checksum_every = 0}), UsageError);
    EXPECT_THROW(Sentinel(nullptr, {}), UsageError);
    EXPECT_EQ(name_of(FindingKind::kSameSamples), "same samples");
    EXPECT_EQ(name_of(FindingKind::kOptimizerSettings), "optimizer settings differ");
  });
}

}  // namespace
}  // namespace lockstep
