#include "lockstep/parallel/train/evaluate.h"

#include <numeric>
#include <tuple>

#include <gtest/gtest.h>

#include "tests/unit/parallel/train/train_test_support.h"

namespace lockstep::train {
namespace {

class EvaluateExactly : public ::testing::TestWithParam<std::tuple<int, std::int64_t>> {};

TEST_P(EvaluateExactly, CountsEachSampleOnceWhateverTheWorld) {
  const auto [world_size, size] = GetParam();
  const Blobs dataset(size);
  std::vector<std::int64_t> indices(static_cast<std::size_t>(size));
  std::iota(indices.begin(), indices.end(), 0);
  const data::Batch all = dataset.get_batch(indices);
  auto control = make_linear(4, 3);
  const torch::NoGradGuard no_grad;
  const at::Tensor output = control->forward(all.data);
  const auto correct = output.argmax(1).eq(all.target).sum().item<std::int64_t>();
  const auto mean_loss = torch::nn::functional::cross_entropy(output, all.target).item<double>();

  run_ranks(world_size, [&, expected_total = size](const std::shared_ptr<ProcessGroup>& group) {
    const Model model(make_linear(4, 3));
    const Evaluation result = evaluate(model, dataset, *group, 3);
    EXPECT_EQ(result.total, expected_total);
    EXPECT_EQ(result.correct, correct);
    EXPECT_NEAR(result.mean_loss, mean_loss, 1e-6);
    EXPECT_TRUE(model.module().is_training());
  });
}

// Sizes below, at and above multiples of the ranks, and fewer samples than ranks.
INSTANTIATE_TEST_SUITE_P(WorldsAndSizes, EvaluateExactly,
                         ::testing::Combine(::testing::Values(1, 2, 3, 5), ::testing::Values(1, 2, 4, 5, 6, 7, 31)));

TEST(Evaluate, LeavesPartsInTheModeThatTheyWereIn) {
  run_ranks(1, [](const std::shared_ptr<ProcessGroup>& group) {
    torch::nn::Sequential net(torch::nn::Linear(4, 3), torch::nn::Dropout(0.5));
    net[1]->as<torch::nn::Dropout>()->eval();
    evaluate(Model(net), Blobs(5), *group);
    EXPECT_TRUE(net->is_training());
    EXPECT_TRUE(net[0]->is_training());
    EXPECT_FALSE(net[1]->is_training());
  });
}

TEST(Evaluate, RestoresEvalMode) {
  run_ranks(1, [](const std::shared_ptr<ProcessGroup>& group) {
    const Model model(make_linear(4, 3));
    model.module().eval();
    evaluate(model, Blobs(5), *group);
    EXPECT_FALSE(model.module().is_training());
  });
}

}  // namespace
}  // namespace lockstep::train
