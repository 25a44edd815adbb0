#include "lockstep/parallel/amp/autocast.h"

#include <ATen/autocast_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "lockstep/core/base/error.h"
#include "tests/unit/parallel/ddp/models.h"

namespace lockstep {
namespace {

using test::error_text;
using ::testing::HasSubstr;

at::ScalarType type_of_product() { return at::ones({2, 2}).matmul(at::ones({2, 2})).scalar_type(); }

TEST(Autocast, CastsInsideAndNotOutside) {
  EXPECT_EQ(type_of_product(), at::kFloat);
  {
    const Autocast autocast;
    EXPECT_EQ(type_of_product(), at::kBFloat16);
    const at::Tensor loss = torch::mse_loss(at::ones({2}, at::kBFloat16), at::zeros({2}));
    EXPECT_EQ(loss.scalar_type(), at::kFloat);
  }
  EXPECT_EQ(type_of_product(), at::kFloat);
}

TEST(Autocast, Nests) {
  const Autocast outer;
  {
    const Autocast off({.enabled = false});
    EXPECT_EQ(type_of_product(), at::kFloat);
    {
      const Autocast on;
      EXPECT_EQ(type_of_product(), at::kBFloat16);
    }
    EXPECT_EQ(type_of_product(), at::kFloat);
  }
  EXPECT_EQ(type_of_product(), at::kBFloat16);
}

TEST(Autocast, EndsWithAnException) {
  EXPECT_THROW(
      {
        const Autocast autocast;
        throw std::runtime_error("from inside");
      },
      std::runtime_error);
  EXPECT_EQ(type_of_product(), at::kFloat);
}

TEST(Autocast, GradientsOfParametersAreFloat32) {
  torch::nn::Linear linear(3, 2);
  at::Tensor output;
  {
    const Autocast autocast;
    output = linear(at::ones({4, 3}));
  }
  EXPECT_EQ(output.scalar_type(), at::kBFloat16);
  output.sum().backward();
  EXPECT_EQ(linear->weight.grad().scalar_type(), at::kFloat);
  EXPECT_TRUE(at::equal(linear->weight.grad(), at::full({2, 3}, 4.0F)));
}

/// Whether a change of a weight inside of the guard is seen by its next use.
bool sees_a_changed_weight(const AutocastOptions& options) {
  const at::Tensor weight = torch::zeros({2, 2}, at::requires_grad());
  const Autocast autocast(options);
  at::ones({2, 2}).matmul(weight);
  {
    const at::NoGradGuard no_grad;
    weight.fill_(1);
  }
  return at::ones({2, 2}).matmul(weight).max().item<float>() != 0;
}

TEST(Autocast, KeepsCastsOfWeightsUntilTheOutermostEnds) {
  EXPECT_FALSE(sees_a_changed_weight({}));
  EXPECT_TRUE(sees_a_changed_weight({.cache = false}));

  const at::Tensor weight = torch::zeros({2, 2}, at::requires_grad());
  const auto largest = [&] { return at::ones({2, 2}).matmul(weight).max().item<float>(); };
  const auto set = [&](double value) {
    const at::NoGradGuard no_grad;
    weight.fill_(value);
  };
  {
    const Autocast outer;
    {
      const Autocast inner;
      EXPECT_EQ(largest(), 0);
    }
    set(1);
    EXPECT_EQ(largest(), 0);
  }
  const Autocast next;
  EXPECT_EQ(largest(), 2);
}

TEST(Autocast, SetsTheStateOfOneDevice) {
  const bool cache = at::autocast::is_autocast_cache_enabled();
  {
    const Autocast cuda({.device = c10::DeviceType::CUDA, .dtype = at::kHalf, .cache = false});
    EXPECT_TRUE(at::autocast::is_enabled());
    EXPECT_FALSE(at::autocast::is_cpu_enabled());
    EXPECT_EQ(at::autocast::get_autocast_gpu_dtype(), at::kHalf);
    EXPECT_FALSE(at::autocast::is_autocast_cache_enabled());
    EXPECT_EQ(type_of_product(), at::kFloat);
  }
  EXPECT_FALSE(at::autocast::is_enabled());
  EXPECT_EQ(at::autocast::is_autocast_cache_enabled(), cache);
}

TEST(Autocast, NamesWhatItCannotDo) {
  EXPECT_THAT(error_text<UsageError>([] { const Autocast autocast({.dtype = at::kDouble}); }),
              HasSubstr("dtype is Double; expected BFloat16"));
  EXPECT_THAT(error_text<UsageError>([] { const Autocast autocast({.device = c10::DeviceType::Meta}); }),
              HasSubstr("device is meta; expected cpu or cuda"));
  EXPECT_EQ(type_of_product(), at::kFloat);
}

}  // namespace
}  // namespace lockstep
