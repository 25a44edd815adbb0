// Against libtorch's BatchNorm over the whole batch in one process.
#include "lockstep/parallel/nn/sync_batch_norm.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

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
using ::testing::HasSubstr;
using Group = std::shared_ptr<ProcessGroup>;
using Sizes = std::vector<std::int64_t>;
using Options = torch::nn::BatchNormOptions;

constexpr std::int64_t kChannels = 3;

/// Numbers without a pattern, the same in each run, of a mean far from zero.
at::Tensor numbers(at::IntArrayRef shape, int seed) {
  const at::Tensor index = at::arange(at::empty(shape).numel(), at::kDouble);
  return (at::sin(index * 1.7 + seed * 2.3 + 0.4) + 2).view(shape);
}

struct Case {
  Options options = kChannels;
  Sizes sizes;  ///< of each rank's batch
  Sizes rest;   ///< dims after the channels
  at::ScalarType type = at::kDouble;
};

void expect_close(const at::Tensor& actual, const at::Tensor& expected, const char* what) {
  ASSERT_EQ(actual.defined(), expected.defined()) << what;
  if (!actual.defined()) return;
  ASSERT_EQ(actual.sizes(), expected.sizes()) << what;
  ASSERT_EQ(actual.scalar_type(), expected.scalar_type()) << what;
  if (expected.numel() == 0) return;
  // Of the largest value: those near zero are differences of larger ones.
  const double largest = expected.abs().max().item<double>();
  const double tolerance = (actual.scalar_type() == at::kFloat ? 1e-5 : 1e-12) * std::max(largest, 1.0);
  EXPECT_TRUE(at::allclose(actual, expected, 0, tolerance)) << what << ": " << actual << "\nnot\n" << expected;
}

/// Every value of the output has a weight of its own, so that no sum of gradients vanishes.
at::Tensor loss_of(const at::Tensor& output, const at::Tensor& weights) { return (output * output * weights).sum(); }

/// libtorch's module for this many dims.
template <typename Call>
auto with_batch_norm(std::size_t dims, const Options& options, const Call& call) {
  if (dims <= 3) return call(torch::nn::BatchNorm1d(options));
  if (dims == 4) return call(torch::nn::BatchNorm2d(options));
  return call(torch::nn::BatchNorm3d(options));
}

template <typename Norm>
void fill(Norm& norm, at::ScalarType type) {
  norm->to(type);
  if (!norm->weight.defined()) return;
  const at::NoGradGuard no_grad;
  norm->weight.copy_(numbers({kChannels}, 5));
  norm->bias.copy_(numbers({kChannels}, 6));
}

template <typename Norm>
void check_steps(const Case& test, const Group& group, Norm whole) {
  const std::int64_t batch = std::accumulate(test.sizes.begin(), test.sizes.end(), std::int64_t{0});
  Sizes shape = {batch, kChannels};
  shape.insert(shape.end(), test.rest.begin(), test.rest.end());
  const auto rank = static_cast<std::size_t>(group->rank());
  const auto mine = [&](const at::Tensor& all) { return all.split_with_sizes(test.sizes)[rank]; };

  SyncBatchNorm norm(test.options, group);
  fill(whole, test.type);
  fill(norm, test.type);
  for (int step = 0; step < 2; ++step) {
    const at::Tensor input = numbers(shape, step).to(test.type);
    const at::Tensor weights = numbers(shape, step + 10).to(test.type);
    const at::Tensor all = input.clone().requires_grad_();
    const at::Tensor expected = whole->forward(all);
    whole->zero_grad();
    loss_of(expected, weights).backward();

    const at::Tensor part = mine(input).clone().requires_grad_();
    const at::Tensor output = norm->forward(part);
    norm->zero_grad();
    loss_of(output, mine(weights)).backward();

    expect_close(output, mine(expected), "output");
    expect_close(part.grad(), mine(all.grad()), "gradient of the input");
    if (norm->weight.defined()) {
      at::Tensor gradients = at::stack({norm->weight.grad(), norm->bias.grad()});
      group->all_reduce(gradients);
      expect_close(gradients, at::stack({whole->weight.grad(), whole->bias.grad()}), "gradients of the parameters");
    }
    expect_close(norm->running_mean, whole->running_mean, "running_mean");
    expect_close(norm->running_var, whole->running_var, "running_var");
    expect_close(norm->num_batches_tracked, whole->num_batches_tracked, "num_batches_tracked");
  }
  norm->eval();
  whole->eval();
  if (!test.options.track_running_stats()) return;  // Then eval normalises by the batch at hand.
  const at::Tensor input = numbers(shape, 20).to(test.type);
  expect_close(norm->forward(mine(input)), mine(whole->forward(input)), "output in eval mode");
}

void check(const Case& test) {
  run_rank_threads(static_cast<int>(test.sizes.size()), [&](const Group& group) {
    with_batch_norm(2 + test.rest.size(), test.options, [&](auto whole) { check_steps(test, group, whole); });
  });
}

class SyncBatchNormWorlds : public ::testing::TestWithParam<int> {
 protected:
  /// The first ranks' batches.
  static Sizes first_of(Sizes sizes) {
    sizes.resize(static_cast<std::size_t>(GetParam()));
    return sizes;
  }
};
INSTANTIATE_TEST_SUITE_P(Worlds, SyncBatchNormWorlds, ::testing::Values(1, 2, 3, 4));

TEST_P(SyncBatchNormWorlds, IsBatchNormOverTheWholeBatch) {
  const std::vector<Sizes> batches = {{2, 2, 2, 2}, {5, 1, 2, 3}, {3, 0, 4, 0}, {3, 0, 0, 1}};
  const std::vector<Sizes> rests = {{}, {4}, {3, 2}, {2, 1, 3}};
  for (const Sizes& sizes : batches) {
    for (const Sizes& rest : rests) {
      check({.options = kChannels, .sizes = first_of(sizes), .rest = rest, .type = at::kDouble});
      check({.options = kChannels, .sizes = first_of(sizes), .rest = rest, .type = at::kFloat});
    }
  }
}

TEST_P(SyncBatchNormWorlds, TakesAllOptions) {
  const Sizes sizes = first_of({2, 3, 0, 1});
  check({.options = Options(kChannels).momentum(c10::nullopt), .sizes = sizes, .rest = {2, 2}});
  check({.options = Options(kChannels).momentum(0.25).eps(0.125), .sizes = sizes, .rest = {2, 2}});
  check({.options = Options(kChannels).affine(false), .sizes = sizes, .rest = {2, 2}});
  check({.options = Options(kChannels).track_running_stats(false), .sizes = sizes, .rest = {5}});
  check({.options = Options(kChannels).affine(false).track_running_stats(false), .sizes = sizes, .rest = {}});
}

TEST_P(SyncBatchNormWorlds, SeesEveryLayoutAlike) {
  run_rank_threads(GetParam(), [](const Group& group) {
    SyncBatchNorm norm(kChannels, group);
    fill(norm, at::kDouble);
    const at::Tensor plain = numbers({2, kChannels, 4, 5}, group->rank());
    const at::Tensor expected = norm->forward(plain);
    const at::Tensor last = plain.contiguous(at::MemoryFormat::ChannelsLast).requires_grad_();
    const at::Tensor output = norm->forward(last);
    expect_close(output, expected, "channels last");
    EXPECT_TRUE(output.is_contiguous(at::MemoryFormat::ChannelsLast));
    // A gradient without strides, as sum() makes it: the sum of normalised values does not depend on the input.
    output.sum().backward();
    EXPECT_LT(last.grad().abs().max().item<double>(), 1e-12);
    const at::Tensor swapped = plain.transpose(2, 3).contiguous().transpose(2, 3);
    expect_close(norm->forward(swapped), expected, "transposed");
  });
}

TEST(SyncBatchNorm, NormalisesHalfTypesInFloat32) {
  run_rank_threads(2, [](const Group& group) {
    SyncBatchNorm norm(kChannels, group);
    const at::Tensor input = numbers({4, kChannels}, group->rank()).to(at::kBFloat16);
    const at::Tensor output = norm->forward(input);
    EXPECT_EQ(output.scalar_type(), at::kBFloat16);
    EXPECT_TRUE(at::equal(output, norm->forward(input.to(at::kFloat)).to(at::kBFloat16)));
  });
}

TEST(SyncBatchNorm, WithoutAGroupIsBatchNormBitForBit) {
  SyncBatchNorm norm(kChannels);
  torch::nn::BatchNorm2d whole(kChannels);
  const at::Tensor input = numbers({4, kChannels, 3, 3}, 1).to(at::kFloat);
  EXPECT_TRUE(at::equal(norm->forward(input), whole->forward(input)));
  EXPECT_TRUE(at::equal(norm->running_var, whole->running_var));
  const auto names = [](const auto& module) {
    std::vector<std::string> all = module->named_parameters().keys();
    for (const std::string& name : module->named_buffers().keys()) all.push_back(name);
    return all;
  };
  EXPECT_EQ(names(norm), names(whole));
}

TEST(SyncBatchNorm, SharesWithTheBatchNormItIsMadeOf) {
  torch::nn::BatchNorm3d whole(Options(kChannels).momentum(0.5));
  whole->eval();
  whole->weight.set_requires_grad(false);
  SyncBatchNorm norm(*whole);
  EXPECT_FALSE(norm->is_training());
  EXPECT_TRUE(norm->weight.is_same(whole->weight));
  EXPECT_FALSE(norm->weight.requires_grad());
  EXPECT_TRUE(norm->bias.requires_grad());
  EXPECT_TRUE(norm->running_mean.is_same(whole->running_mean));
  EXPECT_TRUE(norm->num_batches_tracked.is_same(whole->num_batches_tracked));
  EXPECT_EQ(norm->options.momentum(), 0.5);
}

TEST(SyncBatchNorm, ACloneHasTensorsOfItsOwnAndTheGroup) {
  run_rank_threads(2, [](const Group& group) {
    SyncBatchNorm norm(kChannels, group);
    const auto copy = std::dynamic_pointer_cast<SyncBatchNormImpl>(norm->clone());
    ASSERT_NE(copy, nullptr);
    EXPECT_EQ(copy->group(), group);
    copy->forward(numbers({2, kChannels}, group->rank()));
    EXPECT_EQ(copy->num_batches_tracked.item<int>(), 1);
    EXPECT_EQ(norm->num_batches_tracked.item<int>(), 0);
  });
}

TEST(SyncBatchNorm, NamesWhatDoesNotFit) {
  SyncBatchNorm norm(kChannels);
  EXPECT_THAT(error_text<UsageError>([&] { norm->forward(at::ones({4})); }), HasSubstr("expected [batch, 3, ...]"));
  EXPECT_THAT(error_text<UsageError>([&] { norm->forward(at::ones({4, 2})); }), HasSubstr("input is f32 [4, 2]"));
  EXPECT_THAT(error_text<UsageError>([&] { norm->forward(at::ones({1, 3})); }), HasSubstr("one value per channel"));
  run_rank_threads(3, [](const Group& group) {
    SyncBatchNorm over_all(kChannels, group);
    const at::Tensor whole_numbers = at::ones({4, 3}, at::kLong);
    EXPECT_THAT(error_text<UsageError>([&] { over_all->forward(whole_numbers); }),
                HasSubstr("; expected a floating dtype"));
    const at::Tensor one = at::ones({group->rank() == 1 ? 1 : 0, 3, 1});
    EXPECT_THAT(error_text<UsageError>([&] { over_all->forward(one); }),
                HasSubstr("1 values per channel on all ranks together"));
    const at::Tensor leaf = torch::ones({2, 3}, at::requires_grad());
    const at::Tensor loss = over_all->forward(leaf).square().sum();
    EXPECT_THAT(error_text<UsageError>([&] { torch::autograd::grad({loss}, {leaf}, {}, true, true); }),
                HasSubstr("create_graph"));
  });
}

/// Convolution, norm, linear; two losses of the same net are comparable step by step.
struct NetImpl : torch::nn::Module {
  explicit NetImpl(const Group& group) : norm(register_module("norm", SyncBatchNorm(4, group))) {
    int seed = 0;
    const at::NoGradGuard no_grad;
    for (at::Tensor& parameter : parameters()) parameter.copy_(numbers(parameter.sizes(), ++seed) - 2);
    to(at::kDouble);
  }
  at::Tensor forward(const at::Tensor& x) { return last(torch::tanh(norm(conv(x))).flatten(1)); }

  torch::nn::Conv2d conv = register_module("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(1, 4, 3)));
  torch::nn::Linear last = register_module("last", torch::nn::Linear(16, 2));
  SyncBatchNorm norm;
};
TORCH_MODULE(Net);

template <typename Forward>
void train(torch::nn::Module& net, const Forward& forward, const at::Tensor& images, const at::Tensor& target) {
  torch::optim::SGD optimizer(net.parameters(), torch::optim::SGDOptions(0.1).momentum(0.9));
  for (int step = 0; step < 5; ++step) {
    optimizer.zero_grad();
    torch::mse_loss(forward(images), target).backward();
    optimizer.step();
  }
}

TEST(SyncBatchNorm, TrainsAsOneProcessDoes) {
  run_rank_threads(3, [](const Group& group) {
    const at::Tensor images = numbers({6, 1, 4, 4}, 1);
    const at::Tensor target = numbers({6, 2}, 2);
    Net alone(Group{});
    train(
        *alone, [&](const at::Tensor& x) { return alone->forward(x); }, images, target);

    Net net(group->new_group({0, 1, 2}, {.name = "norms"}));
    DistributedDataParallel ddp(net, group);
    const auto mine = [&](const at::Tensor& all) { return all.chunk(3)[static_cast<std::size_t>(group->rank())]; };
    train(
        *net, [&](const at::Tensor& x) { return ddp->forward(x); }, mine(images), mine(target));
    const auto expected = alone->named_parameters();
    for (const auto& item : net->named_parameters()) {
      EXPECT_TRUE(at::allclose(item.value(), expected[item.key()], 1e-10, 1e-12)) << item.key();
    }
    EXPECT_TRUE(at::allclose(net->norm->running_var, alone->norm->running_var, 1e-10, 1e-12));
  });
}

}  // namespace
}  // namespace lockstep
