// Parameters that a step does not use, graphs that stay the same, and parameters that are frozen on the way.

#include <barrier>

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
using test::WeightedSum;
using test::WeightedSumImpl;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

using Specs = std::vector<WeightedSumImpl::Spec>;

const DdpOptions kFindUnused{.bucket_cap_bytes = 1, .first_bucket_bytes = 1, .find_unused_parameters = true};
const DdpOptions kStatic{.bucket_cap_bytes = 1, .first_bucket_bytes = 1, .static_graph = true};

class UnusedWorlds : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Worlds, UnusedWorlds, ::testing::Values(1, 2, 3, 4));

TEST_P(UnusedWorlds, OneThatSomeRankUsesGetsTheAverageAndOneThatNoneUsesHasNone) {
  run_rank_threads(GetParam(), [](const auto& group) {
    const int n = group->world_size();
    WeightedSum model(Specs{{{4}}, {{5}}, {{6}, at::kDouble}});
    DistributedDataParallel ddp(model, group, kFindUnused);
    for (int step = 1; step <= 3; ++step) {
      model->zero_grad();
      // p0: all ranks. p1: the last rank. p2: none.
      model->left_out = {2};
      if (group->rank() != n - 1) model->left_out.push_back(1);
      ddp->forward(static_cast<double>(n)).backward();
      EXPECT_TRUE(all_equal(model->weights[0].grad(), n));
      EXPECT_TRUE(all_equal(model->weights[1].grad(), 2));
      EXPECT_FALSE(model->weights[2].grad().defined());
    }
    EXPECT_EQ(ddp->stats().last_unused.size(), group->rank() == n - 1 ? 1u : 2u);
    EXPECT_EQ(ddp->stats().last_unused.back(), "p2");
  });
}

TEST_P(UnusedWorlds, AGradientThatNoRankAddsToIsLeftAsItWas) {
  run_rank_threads(GetParam(), [](const auto& group) {
    WeightedSum model(Specs{{{4}}, {{5}}});
    DistributedDataParallel ddp(model, group, kFindUnused);
    ddp->forward(1).backward();
    // The ranks' own, so that an average would show.
    model->weights[1].grad().fill_(10 + group->rank());
    model->weights[0].grad().zero_();
    model->left_out = {1};
    ddp->forward(group->world_size()).backward();
    EXPECT_TRUE(all_equal(model->weights[0].grad(), group->world_size()));
    EXPECT_TRUE(all_equal(model->weights[1].grad(), 10 + group->rank()));
  });
}

TEST_P(UnusedWorlds, WhatWasAccumulatedWithoutSynchronisingCountsAsUsed) {
  run_rank_threads(GetParam(), [](const auto& group) {
    const int n = group->world_size();
    WeightedSum model(Specs{{{4}}, {{5}}});
    DistributedDataParallel ddp(model, group, kFindUnused);
    {
      const auto guard = ddp->no_sync();
      ddp->forward(n * (group->rank() + 1.0)).backward();
    }
    model->left_out = {1};
    ddp->forward(0).backward();
    EXPECT_TRUE(all_equal(model->weights[1].grad(), 2.0 * (n * (n + 1) / 2)));
    model->left_out = {};
  });
}

TEST(UnusedParameters, ChangeFromStepToStepAndWithTheOutputsThatTheLossUses) {
  run_rank_threads(2, [](const auto& group) {
    struct TwoHeadsImpl : torch::nn::Module {
      std::pair<at::Tensor, at::Tensor> forward(const at::Tensor& x) {
        const at::Tensor y = body(x);
        return {first(y), second(y)};
      }
      torch::nn::Linear body = register_module("body", torch::nn::Linear(2, 2));
      torch::nn::Linear first = register_module("first", torch::nn::Linear(2, 1));
      torch::nn::Linear second = register_module("second", torch::nn::Linear(2, 1));
    };
    const auto model = std::make_shared<TwoHeadsImpl>();
    DistributedDataParallel ddp(model, group, kFindUnused);
    for (int step = 0; step < 6; ++step) {
      for (auto& parameter : model->parameters()) parameter.mutable_grad() = at::Tensor();
      const auto [first, second] = ddp->forward(at::ones({1, 2}));
      (step % 2 == 0 ? first : second).sum().backward();
      EXPECT_EQ(model->first->bias.grad().defined(), step % 2 == 0);
      EXPECT_EQ(model->second->bias.grad().defined(), step % 2 == 1);
      EXPECT_TRUE(all_equal((step % 2 == 0 ? model->first : model->second)->bias.grad(), 1));
      EXPECT_TRUE(model->body->weight.grad().defined());
    }
  });
}

TEST(UnusedParameters, AreFoundEarlySoThatBucketsDoNotWaitForThem) {
  WeightedSum model(Specs(4, {{4}}));
  run_rank_threads(1, [&](const auto& group) {
    DistributedDataParallel ddp(model, group, kFindUnused);
    model->left_out = {3};  // The first bucket.
    Trace trace;
    ddp->set_trace(&trace);
    const at::Tensor loss = ddp->forward(1);
    Clock::time_point last_gradient;
    model->weights[0].register_hook([&](const at::Tensor&) { last_gradient = Clock::now(); });
    loss.backward();
    EXPECT_THAT(ddp->stats().last_unused, ElementsAre("p3"));
    for (const TraceEvent& event : trace.events()) {
      if (event.name == "bucket 0") {
        EXPECT_LT(event.start, last_gradient);
      } else if (event.name == "bucket 3") {
        EXPECT_GT(event.start, last_gradient);
      }
    }
    EXPECT_EQ(trace.events().size(), 1u + 1u + 1u + 4u);  // forward, wait, backward, buckets
  });
}

TEST(UnusedParameters, OneThatForwardHidesIsNamed) {
  const auto model = std::make_shared<WeightedSumImpl>(Specs{{{4}}, {{5}}});
  run_rank_threads(1, [&](const auto& group) {
    DistributedDataParallel ddp(model, group, kFindUnused);
    model->left_out = {1};
    const at::Tensor loss = ddp->forward(1) + model->weights[1].sum();
    EXPECT_THAT(error_text<UsageError>([&] { loss.backward(); }),
                HasSubstr("parameter 'p1' got a gradient although no output of forward depends on it"));
  });
}

TEST_P(UnusedWorlds, AStaticGraphWithUnusedAndReusedParameters) {
  run_rank_threads(GetParam(), [](const auto& group) {
    const int n = group->world_size();
    WeightedSum model(Specs{{{4}}, {{5}}, {{6}}});
    model->left_out = {1};
    DistributedDataParallel ddp(model, group, kStatic);
    for (int step = 1; step <= 4; ++step) {
      model->zero_grad();
      ddp->forward(n * (group->rank() + 1.0) * step).backward();
      EXPECT_TRUE(all_equal(model->weights[0].grad(), step * n * (n + 1) / 2));
      EXPECT_TRUE(all_equal(model->weights[2].grad(), 3 * step * n * (n + 1) / 2));
      EXPECT_FALSE(model->weights[1].grad().defined());
    }
    EXPECT_EQ(ddp->stats().steps, 4);
  });
}

/// x * weight, whose backward runs a backward of its own, where alone the weight gets its gradient (as in reentrant
/// activation checkpointing).
struct Reentrant : torch::autograd::Function<Reentrant> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, const at::Tensor* weight) {
    context->saved_data["weight"] = *weight;
    context->save_for_backward({x});
    const at::NoGradGuard no_grad;
    return x * *weight;
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    const at::AutoGradMode grad(true);
    const at::Tensor x = context->get_saved_variables()[0].detach().requires_grad_();
    (x * context->saved_data["weight"].toTensor()).backward(gradients[0]);
    return {x.grad(), at::Tensor()};
  }
};

struct ReentrantNetImpl : torch::nn::Module {
  explicit ReentrantNetImpl(int count) : uses(count) {}
  at::Tensor forward(const at::Tensor& input) {
    at::Tensor x = input * outer;
    for (int i = 0; i < uses; ++i) x = Reentrant::apply(x, &inner);
    return x;
  }
  int uses;
  at::Tensor outer = register_parameter("outer", at::ones({3}));
  at::Tensor inner = register_parameter("inner", at::full({3}, 2.0));
};

TEST(StaticGraph, BackwardsInsideOfBackwards) {
  for (const int uses : {1, 2, 3}) {
    run_rank_threads(2, [&](const auto& group) {
      const auto model = std::make_shared<ReentrantNetImpl>(uses);
      DistributedDataParallel ddp(model, group, kStatic);
      for (int step = 0; step < 3; ++step) {
        model->zero_grad();
        ddp->forward(at::full({3}, 2.0 * group->rank(), at::kFloat)).sum().backward();
        EXPECT_TRUE(all_equal(model->outer.grad(), 1 << uses));
        EXPECT_TRUE(all_equal(model->inner.grad(), uses * (1 << (uses - 1))));
      }
    });
  }
}

TEST(StaticGraph, IsNotNeededForOneBackwardInsideOfAnother) {
  run_rank_threads(2, [&](const auto& group) {
    const auto model = std::make_shared<ReentrantNetImpl>(1);
    DistributedDataParallel ddp(model, group);
    for (int step = 0; step < 3; ++step) {
      model->zero_grad();
      ddp->forward(at::full({3}, 2.0 * group->rank(), at::kFloat)).sum().backward();
      EXPECT_TRUE(all_equal(model->outer.grad(), 2));
      EXPECT_TRUE(all_equal(model->inner.grad(), 1));
    }
  });
}

TEST(StaticGraph, NamesWhatChanged) {
  std::barrier made(2);  // A rank must not abort while another still makes its reducer.
  run_rank_threads(2, [&](const auto& group) {
    WeightedSum model(Specs{{{4}}, {{5}}, {{6}}});
    DistributedDataParallel ddp(model, group, kStatic);
    ddp->forward(1).backward();
    made.arrive_and_wait();
    const auto run = [&] { ddp->forward(1).backward(); };
    if (group->rank() == 1) {
      model->left_out = {1};
      EXPECT_THAT(error_text<UsageError>(run), AllOf(HasSubstr("the graph is not that of the first step"),
                                                     HasSubstr("1 of 3 parameters"), HasSubstr("'p1'")));
    } else {
      EXPECT_THAT(error_text<AbortedError>(run), AllOf(HasSubstr("rank 1/2"), HasSubstr("'p1'")));
    }
  });
}

TEST(FrozenParameters, AreFollowedWhenAllRanksChangeThem) {
  run_rank_threads(2, [](const auto& group) {
    WeightedSum model(Specs{{{4}}, {{5}, at::kFloat, false}});
    DistributedDataParallel ddp(model, group);
    const auto step = [&] {
      for (auto& weight : model->weights) weight.mutable_grad() = at::Tensor();
      ddp->forward(2.0 * group->rank()).backward();
    };
    step();
    EXPECT_FALSE(model->weights[1].grad().defined());
    model->weights[1].requires_grad_(true);
    step();
    EXPECT_TRUE(all_equal(model->weights[0].grad(), 1));
    EXPECT_TRUE(all_equal(model->weights[1].grad(), 2));
    model->weights[0].requires_grad_(false);
    step();
    EXPECT_FALSE(model->weights[0].grad().defined());
    EXPECT_TRUE(all_equal(model->weights[1].grad(), 2));
    EXPECT_EQ(ddp->stats().steps, 3);
  });
}

TEST(FrozenParameters, ThatDifferBetweenRanksAreNamed) {
  run_rank_threads(2, [](const auto& group) {
    WeightedSum model(Specs{{{4}}, {{5}}, {{6}}});
    DistributedDataParallel ddp(model, group);
    ddp->forward(1).backward();
    model->weights[static_cast<std::size_t>(group->rank())].requires_grad_(false);
    EXPECT_THAT(error_text<MismatchError>([&] { ddp->forward(1); }),
                HasSubstr("parameter 0 'p0' is f32 [4], frozen on rank 0 but f32 [4] on rank 1"));
  });
}

TEST(IgnoredParameters, AreLeftAlone) {
  run_rank_threads(2, [](const auto& group) {
    WeightedSum model(Specs{{{4}}, {{5}}}, group->rank() + 1);
    DistributedDataParallel ddp(model, group, {.ignored = {"p1"}});
    EXPECT_TRUE(all_equal(model->weights[0], 1));
    EXPECT_TRUE(all_equal(model->weights[1], group->rank() + 1));
    ddp->forward(2.0 * group->rank()).backward();
    EXPECT_TRUE(all_equal(model->weights[0].grad(), 1));
    EXPECT_TRUE(all_equal(model->weights[1].grad(), 4.0 * group->rank()));
  });
  WeightedSum model(Specs{{{4}}});
  run_rank_threads(1, [&](const auto& group) {
    EXPECT_THAT(error_text<UsageError>([&] { DistributedDataParallel ddp(model, group, {.ignored = {"p7"}}); }),
                HasSubstr("nothing is called 'p7'"));
  });
}

}  // namespace
}  // namespace lockstep
