#include "lockstep/parallel/train/evaluate.h"

#include <cmath>
#include <numbers>
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

/// Scores of two classes at three positions, of which the first two are right about the target.
class Sequences final : public data::Dataset {
 public:
  std::size_t size() const override { return 5; }
  data::Batch get_batch(const std::vector<std::int64_t>& indices) const override {
    const auto n = static_cast<std::int64_t>(indices.size());
    const at::Tensor scores = torch::tensor({1.0F, 1.0F, 0.0F, 0.0F, 0.0F, 1.0F}).view({1, 2, 3}).repeat({n, 1, 1});
    return {scores, torch::zeros({n, 3}, torch::kInt64)};
  }
  std::vector<std::int64_t> sample_shape() const override { return {2, 3}; }
  std::int64_t num_classes() const override { return 2; }
};

TEST(Evaluate, CountsEachPositionOfASequence) {
  run_ranks(2, [](const std::shared_ptr<ProcessGroup>& group) {
    const Model model(torch::nn::Identity{});
    const Evaluation result = evaluate(model, Sequences(), *group, 2);
    EXPECT_EQ(result.total, 15);
    EXPECT_EQ(result.correct, 10);
    EXPECT_NEAR(result.mean_loss, std::log1p(std::numbers::e) - 2.0 / 3.0, 1e-6);
  });
}

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
