#include "lockstep/parallel/amp/grad_scaler.h"

#include <cmath>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "lockstep/core/base/error.h"
#include "lockstep/parallel/ddp/distributed_data_parallel.h"
#include "tests/unit/parallel/ddp/models.h"
#include "tests/unit/parallel/group/rank_threads.h"

namespace lockstep {
namespace {

using test::error_text;
using test::run_rank_threads;
using test::SmallNet;
using ::testing::HasSubstr;
using torch::optim::SGD;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// One weight of value 1 and its optimizer.
struct Weight {
  at::Tensor value = torch::ones({1}, at::requires_grad());
  SGD optimizer{{value}, 0.5};

  /// One iteration, whose unscaled gradient is `slope`. Whether the step was done.
  bool iterate(GradScaler& scaler, float slope) {
    optimizer.zero_grad();
    scaler.scale((value * slope).sum()).backward();
    const bool done = scaler.step(optimizer);
    scaler.update();
    return done;
  }
  float now() const { return value.item<float>(); }
};

TEST(GradScaler, ScalesTheLossAndNotTheStep) {
  GradScaler scaler;
  Weight weight;
  EXPECT_EQ(scaler.get_scale(), 65536);
  EXPECT_EQ(scaler.scale(at::ones({2})).sum().item<float>(), 2 * 65536);
  EXPECT_TRUE(weight.iterate(scaler, 0.5F));
  EXPECT_EQ(weight.now(), 0.75F);
  EXPECT_EQ(weight.value.grad().item<float>(), 0.5F);
}

TEST(GradScaler, UnscalesWhatIsListedTwiceOnce) {
  GradScaler scaler;
  at::Tensor tied = torch::ones({1}, at::requires_grad());
  SGD optimizer({tied, tied}, 0.5);  // As parameters() lists a layer that two others share.
  scaler.scale((tied * 3).sum()).backward();
  scaler.unscale(optimizer);
  EXPECT_EQ(tied.grad().item<float>(), 3);
}

TEST(GradScaler, SkipsAStepWithInfOrNanAndBacksOff) {
  for (const float bad : {kInfinity, -kInfinity, std::nanf("")}) {
    GradScaler scaler({.init_scale = 1024, .backoff_factor = 0.25});
    Weight weight;
    EXPECT_FALSE(weight.iterate(scaler, bad));
    EXPECT_EQ(weight.now(), 1);
    EXPECT_EQ(scaler.get_scale(), 256);
    EXPECT_TRUE(weight.iterate(scaler, 1));
    EXPECT_EQ(weight.now(), 0.5F);
    EXPECT_EQ(scaler.get_scale(), 256);
  }
}

TEST(GradScaler, AnOverflowOfTheScaledGradientIsOneToo) {
  GradScaler scaler({.init_scale = 1024});
  Weight weight;
  EXPECT_FALSE(weight.iterate(scaler, 1e37F));  // Finite; 1024 times as much is not.
  EXPECT_EQ(scaler.get_scale(), 512);
}

TEST(GradScaler, FiniteGradientsWhoseSumOverflowsAreFinite) {
  GradScaler scaler({.init_scale = 1});
  at::Tensor value = torch::zeros({4}, at::requires_grad());
  SGD optimizer({value}, 1e-38);
  scaler.scale((value * 3e38F).sum()).backward();
  EXPECT_TRUE(scaler.step(optimizer));
}

TEST(GradScaler, GrowsAfterAnIntervalWithoutOverflow) {
  GradScaler scaler({.init_scale = 8, .growth_factor = 4, .growth_interval = 3});
  Weight weight;
  const auto scales = [&](std::initializer_list<float> slopes) {
    std::vector<double> seen;
    for (const float slope : slopes) {
      weight.iterate(scaler, slope);
      seen.push_back(scaler.get_scale());
    }
    return seen;
  };
  EXPECT_EQ(scales({1, 1, 1, 1, 1}), (std::vector<double>{8, 8, 32, 32, 32}));
  EXPECT_EQ(scales({kInfinity, 1, 1, 1}), (std::vector<double>{16, 16, 16, 64}));
}

TEST(GradScaler, DoesNotGrowBeyondFloat32) {
  const double largest = std::ldexp(1, 127);
  GradScaler scaler({.init_scale = largest, .growth_interval = 1});
  Weight weight;
  EXPECT_TRUE(weight.iterate(scaler, 0));
  EXPECT_EQ(scaler.get_scale(), largest);
}

TEST(GradScaler, UnscalesOnceSoThatGradientsCanBeClipped) {
  GradScaler scaler;
  Weight weight;
  scaler.scale((weight.value * 4).sum()).backward();
  scaler.unscale(weight.optimizer);
  EXPECT_EQ(weight.value.grad().item<float>(), 4);
  weight.value.mutable_grad().fill_(1);
  EXPECT_TRUE(scaler.step(weight.optimizer));
  EXPECT_EQ(weight.now(), 0.5F);
}

TEST(GradScaler, EachOptimizerSkipsItsOwnStep) {
  GradScaler scaler({.init_scale = 4});
  Weight good;
  Weight bad;
  scaler.scale((good.value + bad.value * kInfinity).sum()).backward();
  EXPECT_TRUE(scaler.step(good.optimizer));
  EXPECT_FALSE(scaler.step(bad.optimizer));
  scaler.update();
  EXPECT_EQ(scaler.get_scale(), 2);
}

TEST(GradScaler, NamesCallsOutOfOrder) {
  GradScaler scaler;
  Weight weight;
  const auto text = [&](const std::function<void()>& call) { return error_text<UsageError>(call); };
  EXPECT_THAT(text([&] { scaler.step(weight.optimizer); }), HasSubstr("before scale"));
  EXPECT_THAT(text([&] { scaler.unscale(weight.optimizer); }), HasSubstr("before scale"));
  EXPECT_THAT(text([&] { scaler.update(); }), HasSubstr("update without step or unscale"));
  const at::Tensor loss = scaler.scale(weight.value.sum());
  EXPECT_THAT(text([&] { scaler.step(weight.optimizer); }), HasSubstr("no gradients"));
  loss.backward();
  scaler.unscale(weight.optimizer);
  EXPECT_THAT(text([&] { scaler.unscale(weight.optimizer); }), HasSubstr("already called"));
  scaler.step(weight.optimizer);
  EXPECT_THAT(text([&] { scaler.unscale(weight.optimizer); }), HasSubstr("unscale after step"));
  EXPECT_THAT(text([&] { scaler.step(weight.optimizer); }), HasSubstr("step was already called"));
  EXPECT_EQ(weight.now(), 0.5F);
  scaler.update();
  EXPECT_THAT(text([&] { scaler.step(weight.optimizer); }), HasSubstr("before scale"));
}

TEST(GradScaler, NamesWhatItDoesNotTake) {
  EXPECT_THAT(error_text<UsageError>([] { GradScaler scaler({.init_scale = 0}); }), HasSubstr("init_scale is 0"));
  EXPECT_THAT(error_text<UsageError>([] { GradScaler scaler({.growth_factor = 1}); }), HasSubstr("growth_factor"));
  EXPECT_THAT(error_text<UsageError>([] { GradScaler scaler({.backoff_factor = 1}); }), HasSubstr("backoff_factor"));
  EXPECT_THAT(error_text<UsageError>([] { GradScaler scaler({.growth_interval = 0}); }), HasSubstr("growth_interval"));
  GradScaler scaler;
  EXPECT_THAT(error_text<UsageError>([&] { scaler.load_state({.scale = kInfinity}); }), HasSubstr("scale is inf"));
  at::Tensor half = torch::ones({1}, at::kHalf).requires_grad_();
  half.mutable_grad() = at::ones({1}, at::kHalf);
  SGD optimizer({half}, 1);
  scaler.scale(at::ones({1}));
  EXPECT_THAT(error_text<UsageError>([&] { scaler.unscale(optimizer); }), HasSubstr("float16"));
  EXPECT_EQ(half.grad().item<float>(), 1);
}

TEST(GradScaler, DisabledIsNotThere) {
  GradScaler scaler({.enabled = false});
  Weight weight;
  EXPECT_EQ(scaler.get_scale(), 1);
  EXPECT_TRUE(scaler.scale(weight.value).is_same(weight.value));
  weight.value.sum().backward();
  scaler.unscale(weight.optimizer);
  EXPECT_TRUE(scaler.step(weight.optimizer));
  EXPECT_EQ(weight.now(), 0.5F);
  scaler.update();
}

TEST(GradScaler, ContinuesFromItsState) {
  const GradScalerOptions options{.init_scale = 8, .growth_interval = 3};
  GradScaler first(options);
  Weight weight;
  weight.iterate(first, kInfinity);
  weight.iterate(first, 1);
  weight.iterate(first, 1);
  GradScaler second(options);
  second.load_state(first.state());
  EXPECT_EQ(second.get_scale(), 4);
  weight.iterate(second, 1);
  EXPECT_EQ(second.get_scale(), 8);
}

TEST(GradScaler, AnOverflowOfOneRankSkipsTheStepOfAll) {
  run_rank_threads(3, [](const auto& group) {
    GradScaler scaler({.init_scale = 16, .group = group});
    Weight weight;
    EXPECT_FALSE(weight.iterate(scaler, group->rank() == 1 ? kInfinity : 1));
    EXPECT_EQ(weight.now(), 1);
    EXPECT_EQ(scaler.get_scale(), 8);
    EXPECT_TRUE(weight.iterate(scaler, 1));
  });
}

TEST(GradScaler, TrainsAsWithoutItBitForBit) {
  run_rank_threads(2, [](const auto& group) {
    const auto train = [&](bool enabled) {
      SmallNet net;
      {
        const at::NoGradGuard no_grad;
        for (at::Tensor& parameter : net->parameters()) parameter.fill_(0.375).view({-1})[0] = -0.25;
      }
      DistributedDataParallel ddp(net, group);
      SGD optimizer(net->parameters(), torch::optim::SGDOptions(0.1).momentum(0.9));
      GradScaler scaler({.growth_interval = 2, .enabled = enabled, .group = group});
      for (int step = 0; step < 5; ++step) {
        optimizer.zero_grad();
        const at::Tensor x = at::cos(at::arange(12, at::kFloat).view({4, 3}) + step + group->rank());
        scaler.scale(ddp->forward(x).square().mean()).backward();
        EXPECT_TRUE(scaler.step(optimizer));
        scaler.update();
      }
      return torch::nn::utils::parameters_to_vector(net->parameters()).detach();
    };
    EXPECT_TRUE(at::equal(train(true), train(false)));
  });
}

}  // namespace
}  // namespace lockstep
