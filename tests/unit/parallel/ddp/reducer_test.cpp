#include "lockstep/parallel/ddp/reducer.h"

#include <algorithm>
#include <barrier>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/base/error.h"
#include "tests/unit/parallel/ddp/models.h"
#include "tests/unit/parallel/group/rank_threads.h"

namespace lockstep::ddp {
namespace {

using test::all_equal;
using test::error_text;
using test::run_rank_threads;
using test::WeightedSum;
using test::WeightedSumImpl;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

using Specs = std::vector<WeightedSumImpl::Spec>;

std::shared_ptr<ProcessGroup> world_of_one() {
  return std::make_shared<ProcessGroup>(make_communicator(make_memory_store(), 0, 1));
}

std::shared_ptr<Reducer> make_reducer(const std::shared_ptr<ProcessGroup>& group, const torch::nn::Module& module,
                                      const DdpOptions& options = {}) {
  ModuleState state = collect_state(module);
  std::erase_if(state.parameters, [](const auto& item) { return !item.tensor.requires_grad(); });
  return Reducer::create(group, std::move(state.parameters), options);
}

/// Forward and backward of `model`.
void step(Reducer& reducer, WeightedSum& model, double scale) {
  reducer.before_forward({});
  model->forward(scale).backward();
}

std::vector<const void*> grad_pointers(const torch::nn::Module& module) {
  std::vector<const void*> pointers;
  for (const auto& parameter : module.parameters()) pointers.push_back(parameter.grad().data_ptr());
  return pointers;
}

const DdpOptions kTinyBuckets{.bucket_cap_bytes = 1, .first_bucket_bytes = 1};

// Optimizer::zero_grad() detaches gradients in place, which autograd refuses for its views.
TEST(Reducer, SlotsAreNoViewsOfAutograd) {
  WeightedSum model(Specs{{{3, 5}}, {{2}}});
  const auto reducer = make_reducer(world_of_one(), *model);
  torch::optim::SGD optimizer(model->parameters(), 0.1);
  for (const auto& parameter : model->parameters()) {
    ASSERT_TRUE(parameter.grad().defined());
    EXPECT_FALSE(parameter.grad().is_view());
    EXPECT_FALSE(parameter.grad().requires_grad());
    EXPECT_EQ(parameter.grad().sizes(), parameter.sizes());
    EXPECT_TRUE(all_equal(parameter.grad(), 0));
  }
  EXPECT_NO_THROW(optimizer.zero_grad());
}

TEST(Reducer, KeepsTheLayoutOfParametersAndTheValuesOfGradients) {
  WeightedSum model(Specs{{{2}}});
  const at::Tensor transposed = model->register_parameter("transposed", at::ones({4, 3}).t());
  const at::Tensor expanded = model->register_parameter("expanded", at::ones({1}).expand({6}).detach());
  transposed.mutable_grad() = at::full({3, 4}, 7.0);
  const auto reducer = make_reducer(world_of_one(), *model);
  EXPECT_EQ(transposed.grad().strides(), transposed.strides());
  EXPECT_TRUE(all_equal(transposed.grad(), 7));
  EXPECT_THAT(expanded.grad().strides().vec(), ElementsAre(1));
  reducer->before_forward({});
  (model->forward(1) + (transposed * 2).sum() + (expanded * 3).sum()).backward();
  EXPECT_TRUE(all_equal(transposed.grad(), 9));
  EXPECT_TRUE(all_equal(expanded.grad(), 3));
  EXPECT_EQ(reducer->statistics().gradient_copies, 0);
}

class ReducerWorlds : public ::testing::TestWithParam<std::tuple<int, std::size_t>> {};
INSTANTIATE_TEST_SUITE_P(WorldsAndCaps, ReducerWorlds,
                         ::testing::Combine(::testing::Values(1, 2, 3, 4), ::testing::Values(1, 200, 1 << 20)));

TEST_P(ReducerWorlds, LeavesTheExactAverageOnEveryRank) {
  const auto [world, cap] = GetParam();
  run_rank_threads(world, [cap = cap](const auto& group) {
    WeightedSum model(Specs{{{7}}, {{3, 5}, at::kDouble}, {{}}, {{0}}, {{33}}, {{1, 1}, at::kDouble}, {{64}}});
    const auto reducer = make_reducer(group, *model, {.bucket_cap_bytes = cap, .first_bucket_bytes = cap});
    const int n = group->world_size();
    for (int round = 1; round <= 4; ++round) {
      step(*reducer, model, n * (group->rank() + 1.0) * round);
      for (std::size_t i = 0; i < model->weights.size(); ++i) {
        const auto average = (static_cast<double>(i) + 1) * (n * (n + 1) / 2) * round;
        EXPECT_TRUE(all_equal(model->weights[i].grad(), average)) << "p" << i << " round " << round;
        model->weights[i].grad().zero_();
      }
    }
    EXPECT_EQ(reducer->statistics().steps, 4);
    EXPECT_EQ(reducer->statistics().gradient_copies, 0);
    EXPECT_EQ(reducer->statistics().bucket_bytes.size(), cap == 1 ? 6u : cap == 200 ? 3u : 2u);
  });
}

TEST(Reducer, AveragesTheSumOfAParameterThatIsUsedTwice) {
  run_rank_threads(2, [](const auto& group) {
    WeightedSum model(Specs{{{4}}, {{5}}});
    const auto reducer = make_reducer(group, *model, kTinyBuckets);
    reducer->before_forward({});
    (model->forward(2.0 * group->rank()) + model->forward(4)).backward();
    EXPECT_TRUE(all_equal(model->weights[0].grad(), 5));
    EXPECT_TRUE(all_equal(model->weights[1].grad(), 10));
  });
}

TEST(Reducer, AveragesAParameterThatHasTwoNamesOnce) {
  run_rank_threads(2, [](const auto& group) {
    WeightedSum model(Specs{{{4}}, {{5}}});
    model->register_parameter("alias", model->weights[0]);
    const auto reducer = make_reducer(group, *model);
    step(*reducer, model, 2.0 * group->rank());
    EXPECT_TRUE(all_equal(model->weights[0].grad(), 1));
  });
}

TEST(Reducer, LeavesFrozenParametersAlone) {
  run_rank_threads(2, [](const auto& group) {
    WeightedSum model(Specs{{{4}}, {{5}, at::kFloat, false}, {{6}}});
    const auto reducer = make_reducer(group, *model);
    step(*reducer, model, 2.0 * group->rank());
    EXPECT_TRUE(all_equal(model->weights[2].grad(), 3));
    EXPECT_FALSE(model->weights[1].grad().defined());
  });
}

TEST(Reducer, AddsUpWithoutSynchronisingAndThenAveragesTheSum) {
  run_rank_threads(2, [](const auto& group) {
    WeightedSum model(Specs{{{4}}, {{5}}});
    const auto reducer = make_reducer(group, *model, kTinyBuckets);
    const double mine = 2.0 * group->rank() + 1;
    for (int i = 0; i < 3; ++i) {
      reducer->before_forward({.synchronise = false});
      model->forward(mine).backward();
    }
    EXPECT_TRUE(all_equal(model->weights[0].grad(), 3 * mine));
    EXPECT_EQ(reducer->statistics().steps, 0);
    step(*reducer, model, mine);
    EXPECT_TRUE(all_equal(model->weights[0].grad(), 4 * 2));
    EXPECT_TRUE(all_equal(model->weights[1].grad(), 2 * 4 * 2));
    EXPECT_EQ(reducer->statistics().steps, 1);
  });
}

TEST(Reducer, SlotsStayThroughStepsOfOptimizers) {
  run_rank_threads(2, [](const auto& group) {
    for (const bool adam : {false, true}) {
      WeightedSum model(Specs{{{40}}, {{50}}});
      // A cap that one parameter fills: the buckets are the same in the order of arrival, whatever that is.
      const auto reducer = make_reducer(group, *model);
      std::unique_ptr<torch::optim::Optimizer> optimizer;
      if (adam) {
        optimizer = std::make_unique<torch::optim::Adam>(model->parameters());
      } else {
        optimizer = std::make_unique<torch::optim::SGD>(model->parameters(), 0.5);
      }
      step(*reducer, model, 1);
      reducer->before_forward({});  // Lays out again where the order of arrival differs; after that nothing moves.
      const auto before = grad_pointers(*model);
      for (int i = 0; i < 5; ++i) {
        optimizer->zero_grad();
        if (!model->weights[0].grad().defined()) GTEST_SKIP() << "this libtorch resets gradients to undefined";
        step(*reducer, model, 2.0 * group->rank());
        optimizer->step();
        EXPECT_EQ(grad_pointers(*model), before);
        EXPECT_TRUE(all_equal(model->weights[0].grad(), 1));
      }
      model->zero_grad();  // Replaces the tensor, not its memory.
      step(*reducer, model, 4.0 * group->rank());
      EXPECT_TRUE(all_equal(model->weights[0].grad(), 2));
      EXPECT_EQ(grad_pointers(*model), before);
      EXPECT_EQ(reducer->statistics().gradient_copies, 0);
    }
  });
}

TEST(Reducer, CopiesGradientsThatWereResetToUndefined) {
  run_rank_threads(3, [](const auto& group) {
    WeightedSum model(Specs{{{4}}, {{5}}});
    const auto reducer = make_reducer(group, *model);
    step(*reducer, model, 100);
    reducer->before_forward({});
    const auto before = grad_pointers(*model);
    for (const auto& weight : model->weights) weight.mutable_grad() = at::Tensor();
    step(*reducer, model, 3.0 * group->rank());
    EXPECT_TRUE(all_equal(model->weights[0].grad(), 3));
    EXPECT_TRUE(all_equal(model->weights[1].grad(), 6));
    EXPECT_EQ(reducer->statistics().gradient_copies, 2);
    EXPECT_EQ(grad_pointers(*model), before);
  });
}

TEST(Reducer, CopiesGradientsThatHaveAGraphOfTheirOwn) {
  run_rank_threads(2, [](const auto& group) {
    WeightedSum model(Specs{{{4}}});
    const auto reducer = make_reducer(group, *model);
    reducer->before_forward({});
    const at::Tensor loss = model->weights[0].pow(2).sum() * (2.0 * group->rank() + 2);
    loss.backward({}, c10::nullopt, /*create_graph=*/true);
    EXPECT_TRUE(all_equal(model->weights[0].grad(), 6));  // 2 w (2 r + 2) at w = 1: 4 and 8
    EXPECT_EQ(reducer->statistics().gradient_copies, 1);
    model->weights[0].mutable_grad() = at::Tensor();  // Ends the cycle of the graph.
  });
}

TEST(Reducer, CountsAGradientThatBackwardLeavesUndefinedAsZero) {
  struct Nothing : torch::autograd::Function<Nothing> {
    static at::Tensor forward(torch::autograd::AutogradContext*, const at::Tensor& x) { return x.sum(); }
    static torch::autograd::variable_list backward(torch::autograd::AutogradContext*,
                                                   const torch::autograd::variable_list&) {
      return {at::Tensor()};
    }
  };
  run_rank_threads(2, [](const auto& group) {
    WeightedSum model(Specs{{{4}}});
    const auto reducer = make_reducer(group, *model);
    step(*reducer, model, 50);
    model->weights[0].mutable_grad() = at::Tensor();
    reducer->before_forward({});
    (group->rank() == 0 ? Nothing::apply(model->weights[0]) : model->weights[0].sum() * 8).backward();
    EXPECT_TRUE(all_equal(model->weights[0].grad(), 4));
  });
}

TEST(Reducer, AveragesEveryBackwardOfOneForward) {
  run_rank_threads(2, [](const auto& group) {
    WeightedSum model(Specs{{{4}}, {{5}}});
    const auto reducer = make_reducer(group, *model);
    reducer->before_forward({});
    const at::Tensor loss = model->forward(2.0 * group->rank());
    loss.backward({}, /*retain_graph=*/true);
    loss.backward();
    EXPECT_TRUE(all_equal(model->weights[0].grad(), 2));
    EXPECT_TRUE(all_equal(model->weights[1].grad(), 4));
  });
}

TEST(Reducer, LaysBucketsOutOnceInTheOrderOfRankZero) {
  run_rank_threads(2, [](const auto& group) {
    WeightedSum model(Specs{{{4}}, {{5}}, {{6}}, {{7}}});
    const auto reducer = make_reducer(group, *model, kTinyBuckets);
    EXPECT_THAT(reducer->statistics().bucket_bytes.size(), 4u);
    // Of a chain, backward meets the last link first: 2, 0, 3, 1 here, and otherwise on rank 1.
    std::vector<std::size_t> chain = {1, 3, 0, 2};
    if (group->rank() == 1) std::ranges::reverse(chain);
    const auto run = [&](double scale) {
      reducer->before_forward({});
      at::Tensor x = at::ones({});
      for (const std::size_t i : chain) x = x * scale + model->weights[i].sum() * x.detach();
      x.backward();
    };
    const auto before = grad_pointers(*model);
    run(1);
    EXPECT_FALSE(reducer->statistics().rebuilt);
    EXPECT_EQ(grad_pointers(*model), before);
    std::vector<at::Tensor> values;
    for (const auto& weight : model->weights) values.push_back(weight.grad().clone());
    reducer->before_forward({});
    EXPECT_TRUE(reducer->statistics().rebuilt);
    const auto after = grad_pointers(*model);
    EXPECT_NE(after, before);
    for (std::size_t i = 0; i < values.size(); ++i) EXPECT_TRUE(at::equal(model->weights[i].grad(), values[i]));
    run(1);
    reducer->before_forward({});
    EXPECT_EQ(grad_pointers(*model), after);
  });
}

TEST(Reducer, NamesParametersWithoutGradientOnEveryRank) {
  std::barrier made(2);  // A rank must not abort while another still makes its reducer.
  run_rank_threads(2, [&](const auto& group) {
    WeightedSum model(Specs(20, {{4}}));
    const auto reducer = make_reducer(group, *model, kTinyBuckets);
    made.arrive_and_wait();
    for (std::size_t i = 3; i < 15; ++i) model->left_out.push_back(i);
    const std::string text = error_text<UsageError>([&] { step(*reducer, model, 1); });
    EXPECT_THAT(text, AllOf(HasSubstr("12 of 20 parameters got no gradient"), HasSubstr("'p3', 'p4'"),
                            HasSubstr("'p12' and 2 more"), Not(HasSubstr("'p13'"))));
    EXPECT_THAT(text, HasSubstr("rank " + std::to_string(group->rank()) + "/2 group test"));
  });
}

TEST(Reducer, ARankThatHasAllGradientsLearnsWhoHasNot) {
  std::barrier made(3);  // A rank must not abort while another still makes its reducer.
  run_rank_threads(3, [&](const auto& group) {
    WeightedSum model(Specs{{{4}}, {{5}}, {{6}}});
    const auto reducer = make_reducer(group, *model, kTinyBuckets);
    made.arrive_and_wait();
    const auto run = [&] { step(*reducer, model, 1); };
    if (group->rank() == 1) {
      model->left_out = {1};
      EXPECT_THAT(error_text<UsageError>(run), HasSubstr("1 of 3 parameters got no gradient in this backward: 'p1'"));
    } else {
      EXPECT_THAT(error_text<AbortedError>(run), AllOf(HasSubstr("rank 1/3"), HasSubstr("'p1'")));
    }
    EXPECT_THROW(step(*reducer, model, 1), Error);
  });
}

/// A backward that an exception of the program leaves after the gradient of p1.
void leave_backward(Reducer& reducer, WeightedSum& model) {
  reducer.before_forward({});
  at::Tensor x = model->weights[0].sum();
  x.register_hook([](const at::Tensor&) -> at::Tensor { throw std::runtime_error("the program's own"); });
  (x + (model->weights[1] * at::ones({5})).sum()).backward();
}

TEST(Reducer, SaysThatTheLastBackwardWasLeftMidway) {
  std::barrier made(2);  // A rank must not abort while another still makes its reducer.
  run_rank_threads(2, [&](const auto& group) {
    WeightedSum model(Specs{{{4}}, {{5}}});
    const auto reducer = make_reducer(group, *model, kTinyBuckets);
    made.arrive_and_wait();
    if (group->rank() == 0) {
      EXPECT_THROW(leave_backward(*reducer, model), std::runtime_error);
      EXPECT_THAT(error_text<UsageError>([&] { reducer->before_forward({}); }), HasSubstr("did not come to its end"));
    } else {
      EXPECT_THAT(error_text<AbortedError>([&] { step(*reducer, model, 1); }), HasSubstr("did not come to its end"));
    }
  });
}

TEST(Reducer, EndsTheGroupWhenItGoesWithBucketsOnTheirWay) {
  std::barrier made(2);
  run_rank_threads(2, [&](const auto& group) {
    WeightedSum model(Specs{{{4}}, {{5}}});
    auto reducer = make_reducer(group, *model, kTinyBuckets);
    made.arrive_and_wait();
    if (group->rank() == 0) {
      EXPECT_THROW(leave_backward(*reducer, model), std::runtime_error);
      reducer.reset();
    } else {
      EXPECT_THAT(error_text<AbortedError>([&] { step(*reducer, model, 1); }),
                  HasSubstr("in the middle of a backward"));
    }
    EXPECT_THROW(group->barrier(), AbortedError);
  });
}

TEST(Reducer, SaysThatAParameterGotItsGradientTwice) {
  WeightedSum model(Specs{{{4}}, {{5}}});
  const auto reducer = make_reducer(world_of_one(), *model, kTinyBuckets);
  EXPECT_THROW(leave_backward(*reducer, model), std::runtime_error);
  const auto again = [&] { model->forward(1).backward(); };
  EXPECT_THAT(error_text<UsageError>(again), HasSubstr("parameter 'p1' got a gradient twice in one backward"));
}

TEST(Reducer, RefusesSparseGradientsAndNamesThem) {
  torch::nn::Embedding embedding(torch::nn::EmbeddingOptions(10, 3).sparse(true));
  const auto reducer = make_reducer(world_of_one(), *embedding);
  const auto run = [&] {
    reducer->before_forward({});
    embedding->forward(at::arange(4)).sum().backward();
  };
  run();  // Added to a dense slot.
  EXPECT_TRUE(all_equal(embedding->weight.grad().narrow(0, 0, 4), 1));
  embedding->weight.mutable_grad() = at::Tensor();
  EXPECT_THAT(error_text<UsageError>(run), AllOf(HasSubstr("'weight'"), HasSubstr("(Sparse)")));
}

TEST(Reducer, LeavesNoHooksAndKeepsGradientsWhenItGoes) {
  WeightedSum model(Specs{{{4}}, {{5}}});
  std::vector<std::shared_ptr<torch::autograd::Node>> accumulators;
  auto reducer = make_reducer(world_of_one(), *model);
  for (const auto& weight : model->weights) {
    accumulators.push_back(torch::autograd::impl::grad_accumulator(weight));
    EXPECT_EQ(accumulators.back()->post_hooks().size(), 1u);
  }
  const at::Tensor loss = model->forward(3);
  reducer.reset();
  for (const auto& accumulator : accumulators) EXPECT_TRUE(accumulator->post_hooks().empty());
  loss.backward();  // Through a graph that was made while the hooks were there.
  EXPECT_TRUE(all_equal(model->weights[1].grad(), 6));
}

TEST(Reducer, OutlivesTheModule) {
  auto model = std::make_unique<WeightedSum>(Specs{{{4}}});
  auto reducer = make_reducer(world_of_one(), **model);
  step(*reducer, *model, 1);
  model.reset();
  EXPECT_EQ(reducer->statistics().steps, 1);
  reducer.reset();
}

}  // namespace
}  // namespace lockstep::ddp
