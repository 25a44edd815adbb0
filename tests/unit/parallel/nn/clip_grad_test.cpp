#include "lockstep/parallel/nn/clip_grad.h"

#include <cmath>
#include <limits>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "lockstep/core/base/error.h"
#include "tests/unit/parallel/ddp/models.h"
#include "tests/unit/parallel/group/rank_threads.h"

namespace lockstep {
namespace {

using test::error_text;
using test::run_rank_threads;
using ::testing::HasSubstr;
using Tensors = std::vector<at::Tensor>;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

at::Tensor with_gradient(const at::Tensor& gradient) {
  at::Tensor parameter = at::zeros_like(gradient).requires_grad_();
  parameter.mutable_grad() = gradient.clone();
  return parameter;
}

/// Gradients 3 and 4, whose 2-norm is 5; one parameter without a gradient and one without elements.
Tensors three_and_four(at::ScalarType type = at::kDouble) {
  return {with_gradient(at::full({1}, 3, type)), at::zeros({2}).requires_grad_(), with_gradient(at::zeros({0}, type)),
          with_gradient(at::full({1, 1}, -4, type))};
}

TEST(ClipGradNorm, ScalesToTheLargestNormAllowed) {
  for (const at::ScalarType type : {at::kDouble, at::kFloat, at::kBFloat16}) {
    const Tensors parameters = three_and_four(type);
    EXPECT_EQ(clip_grad_norm(parameters, 1), 5);
    const double factor = 1 / (5 + 1e-6);
    EXPECT_TRUE(at::equal(parameters[0].grad(), at::full({1}, 3, type) * factor));
    EXPECT_TRUE(at::equal(parameters[3].grad(), at::full({1, 1}, -4, type) * factor));
    EXPECT_FALSE(parameters[1].grad().defined());
  }
}

TEST(ClipGradNorm, CountsWhatIsListedTwiceOnce) {
  Tensors parameters = three_and_four();
  parameters.push_back(parameters[0]);  // As parameters() lists a layer that two others share.
  EXPECT_EQ(clip_grad_norm(parameters, 1), 5);
  EXPECT_EQ(parameters[0].grad().item<double>(), 3 / (5 + 1e-6));
}

TEST(ClipGradNorm, LeavesWhatIsSmallEnoughAsItIs) {
  const Tensors parameters = three_and_four();
  EXPECT_EQ(clip_grad_norm(parameters, 5.1), 5);
  EXPECT_EQ(parameters[0].grad().item<double>(), 3);
  EXPECT_EQ(clip_grad_norm({}, 1), 0);
}

TEST(ClipGradNorm, TakesNormsOfAllOrders) {
  EXPECT_EQ(clip_grad_norm(three_and_four(), 1, {.norm_type = 1}), 7);
  EXPECT_EQ(clip_grad_norm(three_and_four(), 1, {.norm_type = kInfinity}), 4);
  EXPECT_NEAR(clip_grad_norm(three_and_four(), 1, {.norm_type = 3}), std::cbrt(91), 1e-12);
}

TEST(ClipGradNorm, DoesWhatLibtorchDoes) {
  for (const double p : {1.0, 2.0, 2.5, kInfinity}) {
    for (const double max_norm : {0.01, 1e6}) {
      Tensors ours;
      Tensors theirs;
      for (const std::int64_t n : {1, 7, 1000}) {
        const at::Tensor gradient = at::sin(at::arange(n, at::kFloat) * 1.3);
        ours.push_back(with_gradient(gradient));
        theirs.push_back(with_gradient(gradient));
      }
      const double expected = torch::nn::utils::clip_grad_norm_(theirs, max_norm, p);
      EXPECT_NEAR(clip_grad_norm(ours, max_norm, {.norm_type = p}), expected, 1e-5 * expected);
      for (std::size_t i = 0; i < ours.size(); ++i) EXPECT_TRUE(at::allclose(ours[i].grad(), theirs[i].grad(), 1e-5));
    }
  }
}

TEST(ClipGradNorm, ANormThatIsNotFiniteIsSeenOrRefused) {
  const auto with = [](double value) {
    Tensors parameters = three_and_four();
    parameters.push_back(with_gradient(at::full({1}, value, at::kDouble)));
    parameters.push_back(with_gradient(at::ones({1}, at::kDouble)));
    return parameters;
  };
  for (const double p : {2.0, kInfinity}) {
    const Tensors bad = with(std::nan(""));
    EXPECT_TRUE(std::isnan(clip_grad_norm(bad, 1, {.norm_type = p})));
    EXPECT_TRUE(std::isnan(bad[0].grad().item<double>()));
    const Tensors infinite = with(kInfinity);
    EXPECT_EQ(clip_grad_norm(infinite, 1, {.norm_type = p}), kInfinity);
    EXPECT_EQ(infinite[0].grad().item<double>(), 0);
    const Tensors refused = with(kInfinity);
    EXPECT_THAT(
        error_text<UsageError>([&] { clip_grad_norm(refused, 1, {.norm_type = p, .error_if_nonfinite = true}); }),
        HasSubstr("of the gradients is inf"));
    EXPECT_EQ(refused[0].grad().item<double>(), 3);
  }
}

TEST(ClipGradNorm, OverAGroupIsTheNormOfAllParts) {
  run_rank_threads(3, [](const auto& group) {
    for (const double p : {1.0, 2.0, 3.0, kInfinity}) {
      Tensors whole;
      for (int i = 0; i < 4; ++i) whole.push_back(with_gradient(at::arange(5, at::kDouble) - i * i));
      // Rank 1 has no part, the last rank two.
      const auto rank = static_cast<std::size_t>(group->rank());
      const std::vector<Tensors> parts = {{whole[0], whole[1]}, {}, {whole[2], whole[3]}};
      Tensors mine;
      for (const at::Tensor& parameter : parts[rank]) mine.push_back(with_gradient(parameter.grad()));
      const double expected = clip_grad_norm(whole, 2, {.norm_type = p});
      EXPECT_NEAR(clip_grad_norm(mine, 2, {.norm_type = p}, group), expected, 1e-12 * expected);
      for (std::size_t i = 0; i < mine.size(); ++i) EXPECT_TRUE(at::allclose(mine[i].grad(), parts[rank][i].grad()));
    }
    // One rank's nan is everyone's.
    const Tensors parameters = {with_gradient(at::full({2}, group->rank() == 1 ? std::nan("") : 1, at::kDouble))};
    EXPECT_THROW(clip_grad_norm(parameters, 1, {.norm_type = kInfinity, .error_if_nonfinite = true}, group),
                 UsageError);
  });
}

TEST(ClipGradNorm, NamesOptionsOutOfRange) {
  EXPECT_THAT(error_text<UsageError>([] { clip_grad_norm({}, 1, {.norm_type = 0}); }), HasSubstr("norm_type is 0"));
  EXPECT_THAT(error_text<UsageError>([] { clip_grad_norm({}, -1); }), HasSubstr("max_norm is -1"));
  EXPECT_THAT(error_text<UsageError>([] { clip_grad_value({}, -1); }), HasSubstr("clip_value is -1"));
}

TEST(ClipGradValue, ClampsEachElement) {
  const Tensors parameters = {with_gradient(at::tensor({-3.0, -0.5, 0.0, 2.0})), at::zeros({1})};
  clip_grad_value(parameters, 1.5);
  EXPECT_TRUE(at::equal(parameters[0].grad(), at::tensor({-1.5, -0.5, 0.0, 1.5})));
}

}  // namespace
}  // namespace lockstep
