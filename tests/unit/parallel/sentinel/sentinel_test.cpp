#include "lockstep/parallel/sentinel/sentinel.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/base/error.h"
#include "tests/unit/parallel/sentinel/training.h"

namespace lockstep {
namespace {

using test::kinds_of;
using test::run_rank_threads;
using test::texts_of;
using test::Training;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using Group = std::shared_ptr<ProcessGroup>;

/// The only finding is of this kind; returns it.
Finding only(const Training& training, FindingKind kind) {
  EXPECT_THAT(kinds_of(training.findings()), ElementsAre(kind)) << texts_of(training.findings());
  return training.findings().empty() ? Finding{} : training.findings().front();
}

// ---- replicas ----

TEST(Sentinel, FindsDifferentInitialWeights) {
  run_rank_threads(3, [](const Group& group) {
    Training training(group, {}, group->rank() == 1 ? 2 : 1);
    for (int i = 0; i < 3; ++i) training.step(training.fresh_batch());
    const Finding found = only(training, FindingKind::kParametersDiffer);
    EXPECT_EQ(found.step, 1);
    EXPECT_EQ(found.tensor, "fc1.weight");
    EXPECT_THAT(found.ranks, ElementsAre(1));
    EXPECT_THAT(found.text, HasSubstr("group test, step 1: parameter 'fc1.weight' on rank 1"));
    EXPECT_THAT(found.text, HasSubstr("(4 of 4 tensors differ)"));
    EXPECT_THAT(found.text, HasSubstr("started from different weights"));
  });
}

TEST(Sentinel, FindsOneBitThatDiffers) {
  run_rank_threads(3, [](const Group& group) {
    Training training(group, {.checksum_every = 10});
    for (int i = 0; i < 13; ++i) training.step(training.fresh_batch());
    EXPECT_THAT(training.findings(), IsEmpty()) << texts_of(training.findings());
    if (group->rank() == 2) {
      static_cast<std::uint8_t*>(training.net_->fc2->bias.data_ptr())[1] ^= 1;
    }
    for (int i = 0; i < 8; ++i) training.step(training.fresh_batch());
    const Finding found = only(training, FindingKind::kParametersDiffer);
    EXPECT_EQ(found.step, 20);
    EXPECT_THAT(found.ranks, ElementsAre(2));
    EXPECT_THAT(found.text, HasSubstr("all were equal at step 10"));
    EXPECT_THAT(found.text, HasSubstr("changes weights on some ranks only"));
  });
}

TEST(Sentinel, NamesTheTensorThatDiffers) {
  run_rank_threads(2, [](const Group& group) {
    Training training(group);
    training.optimizer_.param_groups()[0].options().set_lr(0);  // What differs stays where it is.
    if (group->rank() == 1) static_cast<std::uint8_t*>(training.net_->fc1->bias.data_ptr())[5] ^= 64;
    training.step(training.fresh_batch());
    const Finding found = only(training, FindingKind::kParametersDiffer);
    EXPECT_EQ(found.tensor, "fc1.bias");
    EXPECT_THAT(found.text, Not(HasSubstr("tensors differ")));
  });
}

// ---- gradients ----

TEST(Sentinel, FindsThatNobodyAverages) {
  run_rank_threads(2, [](const Group& group) {
    Training training(group);
    for (int i = 0; i < 3; ++i) training.step_alone(training.fresh_batch());
    const Finding found = only(training, FindingKind::kGradientsNotAveraged);
    EXPECT_EQ(found.step, 0);
    EXPECT_EQ(found.tensor, "fc1.weight");
    EXPECT_THAT(found.ranks, ElementsAre(group->rank()));
    EXPECT_THAT(found.text,
                HasSubstr("'fc1.weight' was stepped on after a backward whose gradients were not averaged"));
    EXPECT_THAT(found.text, HasSubstr("end no_sync() before it"));
  });
}

TEST(Sentinel, FindsAStepInsideNoSyncAndBlamesItForWhatDiffers) {
  run_rank_threads(2, [](const Group& group) {
    Training training(group);
    training.step(training.fresh_batch());
    training.step_alone(training.fresh_batch());
    training.step(training.fresh_batch());
    ASSERT_THAT(kinds_of(training.findings()),
                ElementsAre(FindingKind::kGradientsNotAveraged, FindingKind::kParametersDiffer));
    EXPECT_EQ(training.findings()[1].step, 2);
    EXPECT_THAT(training.findings()[1].text, HasSubstr("the optimizer of ranks 0 and 1 stepped on gradients"));
  });
}

TEST(Sentinel, AccumulationThatAveragesItsLastBackwardIsFine) {
  run_rank_threads(2, [](const Group& group) {
    Training training(group);
    for (int i = 0; i < 20; ++i) {
      training.optimizer_.zero_grad();
      for (int part = 0; part < 2; ++part) {
        training.compute(training.fresh_batch());
        training.sentinel_.after_backward(false);
      }
      training.compute(training.fresh_batch());
      training.average_gradients();
      training.optimizer_.step();
    }
    EXPECT_THAT(training.findings(), IsEmpty()) << texts_of(training.findings());
  });
}

TEST(Sentinel, FindsSummedGradients) {
  run_rank_threads(3, [](const Group& group) {
    Training training(group);
    training.average_ = [](ProcessGroup& g, at::Tensor& bucket) { Training::reduce(g, bucket, ReduceOp::kSum); };
    for (int i = 0; i < 3; ++i) training.step(training.fresh_batch());
    const Finding found = only(training, FindingKind::kGradientsSummed);
    EXPECT_EQ(found.step, 1);
    EXPECT_EQ(found.tensor, "fc1.weight");
    EXPECT_THAT(found.text, HasSubstr("summed over the ranks, not averaged: 3 times their mean"));
    EXPECT_THAT(found.text, HasSubstr("hook that does not divide"));
  });
}

TEST(Sentinel, FindsAnAverageThatIsNone) {
  run_rank_threads(3, [](const Group& group) {
    Training training(group);
    training.average_ = [](ProcessGroup&, at::Tensor&) {};
    for (int i = 0; i < 3; ++i) training.step(training.fresh_batch());
    ASSERT_THAT(kinds_of(training.findings()),
                ElementsAre(FindingKind::kGradientsNotAveraged, FindingKind::kParametersDiffer));
    EXPECT_THAT(training.findings()[0].text,
                HasSubstr("on ranks 0, 1 and 2 are after averaging what they were before"));
    EXPECT_THAT(training.findings()[1].text, HasSubstr("gradients are not averaged over all ranks"));
  });
}

TEST(Sentinel, HalfPrecisionOnTheWireIsFine) {
  run_rank_threads(3, [](const Group& group) {
    Training training(group);
    training.average_ = [](ProcessGroup& g, at::Tensor& bucket) {
      at::Tensor half = bucket.to(at::kBFloat16);
      g.all_reduce(half, ReduceOp::kAvg);
      bucket.copy_(half);
    };
    for (int i = 0; i < 70; ++i) training.step(training.fresh_batch());
    EXPECT_THAT(training.findings(), IsEmpty()) << texts_of(training.findings());
  });
}

// ---- reductions of the program's own ----

TEST(Sentinel, FindsGradientsThatAreReducedTwice) {
  run_rank_threads(2, [](const Group& group) {
    Training training(group);
    for (int i = 0; i < 3; ++i) {
      training.optimizer_.zero_grad();
      training.compute(training.fresh_batch());
      training.average_gradients();
      at::Tensor gradient = training.net_->fc2->weight.grad();
      group->all_reduce(gradient);
      training.optimizer_.step();
    }
    const Finding found = only(training, FindingKind::kGradientsReducedTwice);
    EXPECT_EQ(found.tensor, "fc2.weight");
    EXPECT_THAT(found.text, HasSubstr("reduces the gradient of 'fc2.weight', which is averaged"));
  });
}

TEST(Sentinel, FindsParametersThatAreSummedInsteadOfGradients) {
  run_rank_threads(2, [](const Group& group) {
    Training training(group);
    const at::NoGradGuard no_grad;
    for (int i = 0; i < 2; ++i) {
      {
        const at::AutoGradMode grad(true);
        training.step(training.fresh_batch());
      }
      for (at::Tensor& parameter : training.net_->parameters()) group->all_reduce(parameter);
    }
    const Finding found = only(training, FindingKind::kParametersReduced);
    EXPECT_EQ(found.tensor, "fc1.weight");
    EXPECT_THAT(found.text, HasSubstr("reduces parameter 'fc1.weight' over these ranks"));
  });
}

TEST(Sentinel, AProgramThatAveragesByItselfIsFine) {
  run_rank_threads(2, [](const Group& group) {
    Training training(group);
    const auto average = [&](at::Tensor tensor) {
      const at::NoGradGuard no_grad;
      group->all_reduce(tensor, ReduceOp::kAvg);
    };
    for (int i = 0; i < 4; ++i) {  // Gradients, inside no_sync().
      training.optimizer_.zero_grad();
      training.compute(training.fresh_batch());
      training.sentinel_.after_backward(false);
      for (const at::Tensor& parameter : training.net_->parameters()) average(parameter.grad());
      training.optimizer_.step();
    }
    for (int i = 0; i < 4; ++i) {  // Parameters, after steps of the ranks' own.
      training.step_alone(training.fresh_batch());
      for (const at::Tensor& parameter : training.net_->parameters()) average(parameter);
    }
    training.step(training.fresh_batch());
    EXPECT_THAT(training.findings(), IsEmpty()) << texts_of(training.findings());
  });
}

TEST(Sentinel, ReductionsAmongOtherRanksAndBroadcastsAreFine) {
  run_rank_threads(3, [](const Group& group) {
    Training training(group);
    const Group pair = group->rank() < 2 ? group->new_group({0, 1}) : nullptr;
    for (int i = 0; i < 3; ++i) {
      training.step(training.fresh_batch());
      const at::NoGradGuard no_grad;
      at::Tensor weight = training.net_->fc1->weight;
      at::Tensor gradient = weight.grad();
      if (pair) pair->all_reduce(gradient, ReduceOp::kMax);
      group->broadcast(weight, 0);
    }
    EXPECT_THAT(training.findings(), IsEmpty()) << texts_of(training.findings());
  });
}

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
