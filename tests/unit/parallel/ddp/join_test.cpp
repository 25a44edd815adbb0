#include "lockstep/parallel/ddp/join.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/base/error.h"
#include "lockstep/parallel/ddp/distributed_data_parallel.h"
#include "tests/unit/parallel/ddp/models.h"
#include "tests/unit/parallel/group/rank_threads.h"

namespace lockstep {
namespace {

using test::all_equal;
using test::error_text;
using test::run_rank_threads;
using test::SmallNet;
using test::WeightedSum;
using test::WeightedSumImpl;
using ::testing::AllOf;
using ::testing::HasSubstr;

using Specs = std::vector<WeightedSumImpl::Spec>;

const DdpOptions kTinyBuckets{.bucket_cap_bytes = 1, .first_bucket_bytes = 1};

/// A ramp of inputs: rank r has 2 r + `least` of them.
struct Uneven {
  int world;
  int least;
  bool by_initial;
  DdpOptions options;
};

class JoinWorlds : public ::testing::TestWithParam<Uneven> {};
INSTANTIATE_TEST_SUITE_P(Worlds, JoinWorlds,
                         ::testing::Values(Uneven{1, 2, true, {}}, Uneven{2, 0, true, {}},
                                           Uneven{2, 1, false, kTinyBuckets}, Uneven{3, 1, true, kTinyBuckets},
                                           Uneven{4, 1, false, {}},
                                           Uneven{3, 2, true, {.bucket_cap_bytes = 1, .find_unused_parameters = true}},
                                           Uneven{3, 2, false, {.bucket_cap_bytes = 1, .static_graph = true}}));

TEST_P(JoinWorlds, RanksWithoutInputsAddNothing) {
  const Uneven uneven = GetParam();
  run_rank_threads(uneven.world, [&](const auto& group) {
    const int n = group->world_size();
    WeightedSum model(Specs{{{4}, at::kDouble}, {{5}, at::kDouble}});
    DistributedDataParallel ddp(model, group, uneven.options);
    // Twice: a second epoch goes on from where the first ended.
    for (int epoch = 0; epoch < 2; ++epoch) {
      ddp->join(
          [&] {
            for (int step = 0; step < 2 * group->rank() + uneven.least; ++step) {
              for (auto& weight : model->weights) weight.mutable_grad() = at::Tensor();
              ddp->forward(12.0 * (group->rank() + 1)).backward();
              double sum = 0;
              int active = 0;
              for (int rank = 0; rank < n; ++rank) {
                if (step >= 2 * rank + uneven.least) continue;
                sum += 12.0 * (rank + 1);
                ++active;
              }
              const double expected = sum / (uneven.by_initial ? n : active);
              EXPECT_NEAR(model->weights[0].grad().max().template item<double>(), expected, 1e-12) << step;
              EXPECT_NEAR(model->weights[1].grad().min().template item<double>(), 2 * expected, 1e-12) << step;
              const at::NoGradGuard no_grad;
              for (auto& weight : model->weights) weight -= 0.01 * weight.grad();
            }
          },
          {.divide_by_initial_world_size = uneven.by_initial});
      at::Tensor first = model->weights[0].detach().clone();
      group->broadcast(first, n - 1);
      EXPECT_TRUE(at::equal(first, model->weights[0])) << "replicas end as that of the last rank to work";
    }
  });
}

TEST(Join, BuffersComeFromARankThatStillHasInputs) {
  run_rank_threads(2, [](const auto& group) {
    SmallNet net(5, true);
    DistributedDataParallel ddp(net, group);
    ddp->join([&] {
      for (int step = 0; step < 1 + group->rank(); ++step) {
        net->norm->running_mean.fill_(10 * step + group->rank());
        net->norm->eval();  // So that forward itself does not change them.
        ddp->forward(at::ones({4, 3})).sum().backward();
        EXPECT_TRUE(all_equal(net->norm->running_mean, step == 0 ? 0 : 11));
      }
    });
    EXPECT_TRUE(all_equal(net->norm->running_mean, 11));
  });
}

TEST(Join, ARankWithoutAnyInputTakesPartInBuffersAndOrder) {
  run_rank_threads(3, [](const auto& group) {
    SmallNet net(5, true);
    DistributedDataParallel ddp(net, group);
    ddp->join([&] {
      for (int step = 0; step < group->rank(); ++step) ddp->forward(at::ones({4, 3})).sum().backward();
    });
    EXPECT_EQ(ddp->stats().steps, 2);
    EXPECT_TRUE(ddp->stats().rebuilt);
  });
}

TEST(Join, AnEvaluationAfterwardsIsTheSameOnRanksThatHadNoInput) {
  run_rank_threads(2, [](const auto& group) {
    SmallNet net(5, true);
    DistributedDataParallel ddp(net, group);
    ddp->join([&] {
      for (int step = 0; step < group->rank(); ++step) ddp->forward(at::ones({4, 3})).sum().backward();
    });
    {
      const at::NoGradGuard no_grad;
      net->eval();
      ddp->forward(at::ones({4, 3}));
      net->train();
    }
    ddp->forward(at::ones({4, 3})).sum().backward();
    EXPECT_EQ(ddp->stats().steps, 2);
  });
}

TEST(Join, AStaticGraphIsLearntWhereEveryRankHasAnInput) {
  run_rank_threads(2, [](const auto& group) {
    WeightedSum model(Specs{{{4}}, {{5}}});
    if (group->rank() == 1) model->left_out = {1};
    DistributedDataParallel ddp(model, group, {.bucket_cap_bytes = 1, .static_graph = true});
    ddp->join([&] {
      for (int step = 0; step < group->rank(); ++step) ddp->forward(1).backward();
    });
    for (int step = 0; step < 3; ++step) {
      for (auto& weight : model->weights) weight.mutable_grad() = at::Tensor();
      ddp->forward(group->rank() == 0 ? 10 : 20).backward();
      EXPECT_TRUE(all_equal(model->weights[0].grad(), 15)) << step;
      EXPECT_TRUE(all_equal(model->weights[1].grad(), 10)) << "of rank 0 alone, in step " << step;
    }
  });
}

TEST(Join, AnEvaluationOfTheRanksThatHaveInputsAsksNobody) {
  run_rank_threads(2, [](const auto& group) {
    SmallNet net(5, true);
    DistributedDataParallel ddp(net, group);
    ddp->join([&] {
      for (int step = 0; step < 1 + group->rank(); ++step) {
        ddp->forward(at::ones({4, 3})).sum().backward();
        const at::NoGradGuard no_grad;
        net->eval();
        ddp->forward(at::ones({4, 3}));
        net->train();
      }
    });
    EXPECT_EQ(ddp->stats().steps, 2);
  });
}

TEST(Join, StepsThatDoNotAverage) {
  run_rank_threads(2, [](const auto& group) {
    WeightedSum model(Specs{{{4}}});
    DistributedDataParallel ddp(model, group);
    ddp->join([&] {
      for (int step = 0; step < 3 + 2 * group->rank(); ++step) {
        model->zero_grad();
        {
          const auto guard = ddp->no_sync();
          ddp->forward(1).backward();
        }
        ddp->forward(1).backward();
        EXPECT_TRUE(all_equal(model->weights[0].grad(), step < 3 ? 2 : 1));
      }
    });
    EXPECT_EQ(ddp->stats().steps, 5);
  });
}

TEST(Join, SeveralAtOnceHaveAGroupEach) {
  run_rank_threads(3, [](const auto& group) {
    WeightedSum generator(Specs{{{4}}});
    WeightedSum critic(Specs{{{5}}, {{6}}});
    DistributedDataParallel first(generator, group);
    DistributedDataParallel second(critic, group->new_group({0, 1, 2}));
    join({&first.engine(), &second.engine()}, [&] {
      for (int step = 0; step < 1 + group->rank(); ++step) {
        generator->zero_grad();
        critic->zero_grad();
        const at::Tensor generated = first->forward(3);
        (generated + second->forward(6)).backward();
        EXPECT_TRUE(all_equal(generator->weights[0].grad(), 3 - step));
        EXPECT_TRUE(all_equal(critic->weights[1].grad(), 2 * (6 - 2 * step)));
      }
    });
  });
}

TEST(Join, EndsEarlyOnAllRanksWhereAskedTo) {
  run_rank_threads(3, [](const auto& group) {
    WeightedSum model(Specs{{{4}}});
    DistributedDataParallel ddp(model, group);
    int steps = 0;
    const auto run = [&] {
      ddp->join(
          [&] {
            for (; steps < (group->rank() == 1 ? 2 : 5); ++steps) ddp->forward(1).backward();
          },
          {.throw_on_early_termination = true});
    };
    EXPECT_THAT(error_text<MismatchError>(run), HasSubstr("rank(s) 1 of 3 ran out of inputs"));
    EXPECT_EQ(steps, 2);
    ddp->forward(1).backward();  // Nothing is broken.
    EXPECT_EQ(ddp->stats().steps, 3);
  });
}

TEST(Join, NamesRanksThatAverageInOtherSteps) {
  run_rank_threads(2, [](const auto& group) {
    WeightedSum model(Specs{{{4}}});
    DistributedDataParallel ddp(model, group);
    const auto run = [&] {
      ddp->join([&] {
        if (group->rank() == 1) {
          const auto guard = ddp->no_sync();
          ddp->forward(1).backward();
        } else {
          ddp->forward(1).backward();
        }
      });
    };
    EXPECT_THAT(error_text<MismatchError>(run),
                AllOf(HasSubstr("rank 0 averages in this step and rank 1 does not"), HasSubstr("no_sync()")));
  });
}

TEST(Join, RefusesNothingToJoinAndALoopInALoop) {
  run_rank_threads(1, [](const auto& group) {
    WeightedSum model(Specs{{{4}}});
    DistributedDataParallel ddp(model, group);
    EXPECT_THAT(error_text<UsageError>([&] { join({}, [] {}); }), HasSubstr("no joinables"));
    EXPECT_THAT(error_text<UsageError>([&] { ddp->join([&] { ddp->join([] {}); }); }), HasSubstr("joined once"));
  });
}

}  // namespace
}  // namespace lockstep
