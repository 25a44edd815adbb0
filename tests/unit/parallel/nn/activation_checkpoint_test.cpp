// The control is the same function without a checkpoint; gradients are compared with ==.
#include "lockstep/parallel/nn/activation_checkpoint.h"

#include <memory>
#include <string>
#include <vector>

#include <ATen/autocast_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "lockstep/core/base/error.h"
#include "lockstep/parallel/ddp/distributed_data_parallel.h"
#include "lockstep/parallel/nn/sync_batch_norm.h"
#include "tests/unit/parallel/ddp/models.h"
#include "tests/unit/parallel/group/rank_threads.h"

namespace lockstep {
namespace {

using test::all_equal;
using test::error_text;
using test::run_rank_threads;
using ::testing::AllOf;
using ::testing::HasSubstr;
using Group = std::shared_ptr<ProcessGroup>;
using Tensors = std::vector<at::Tensor>;

at::Tensor numbers(at::IntArrayRef shape, int seed) {
  const at::Tensor index = at::arange(at::empty(shape).numel(), at::kDouble);
  return at::sin(index * 1.7 + seed * 2.3 + 0.4).view(shape).to(at::kFloat);
}

/// A block with a norm, whose running statistics show how often it ran, and dropout.
struct BlockImpl : torch::nn::Module {
  explicit BlockImpl(double dropout = 0) : drop(register_module("drop", torch::nn::Dropout(dropout))) {}
  at::Tensor forward(const at::Tensor& x) {
    ++calls;
    return drop(torch::tanh(norm(second(torch::relu(first(x))))));
  }
  int calls = 0;
  torch::nn::Linear first = register_module("first", torch::nn::Linear(4, 6));
  torch::nn::Linear second = register_module("second", torch::nn::Linear(6, 4));
  torch::nn::BatchNorm1d norm = register_module("norm", torch::nn::BatchNorm1d(4));
  torch::nn::Dropout drop;
};
TORCH_MODULE(Block);

void fill(torch::nn::Module& module) {
  int seed = 0;
  const at::NoGradGuard no_grad;
  for (at::Tensor& parameter : module.parameters()) parameter.copy_(numbers(parameter.sizes(), ++seed));
}

Tensors gradients_of(const torch::nn::Module& module) {
  Tensors gradients;
  for (const at::Tensor& parameter : module.parameters()) {
    gradients.push_back(parameter.grad().defined() ? parameter.grad() : at::Tensor());
  }
  return gradients;
}

void expect_equal(const Tensors& actual, const Tensors& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) {
    ASSERT_EQ(actual[i].defined(), expected[i].defined()) << i;
    if (!actual[i].defined()) continue;
    EXPECT_TRUE(at::equal(actual[i], expected[i])) << i << actual[i] << expected[i];
  }
}

/// Runs a block with and without a checkpoint around each of its uses in `forward(call, block, x)`.
template <typename Forward>
void compare(double dropout, const Forward& forward) {
  Tensors results[2];
  for (const bool checkpointed : {false, true}) {
    torch::manual_seed(7);
    Block block(dropout);
    fill(*block);
    const at::Tensor input = numbers({5, 4}, 9).requires_grad_();
    const auto call = [&](const at::Tensor& x) {
      return checkpointed ? activation_checkpoint(block, x) : block->forward(x);
    };
    const at::Tensor output = forward(call, block, input);
    // Random numbers that are drawn after the forward are those that would have been drawn anyway.
    const at::Tensor random = at::rand({3});
    output.square().sum().backward();
    Tensors& result = results[checkpointed ? 1 : 0];
    result = gradients_of(*block);
    for (const at::Tensor& tensor : {output.detach(), input.grad(), random, at::rand({3})}) result.push_back(tensor);
    for (const at::Tensor& buffer : block->buffers()) result.push_back(buffer);
  }
  expect_equal(results[1], results[0]);
}

TEST(ActivationCheckpoint, GradientsBuffersAndRandomNumbersAreThoseWithoutIt) {
  compare(0, [](const auto& call, const Block&, const at::Tensor& x) { return call(x); });
  compare(0.5, [](const auto& call, const Block&, const at::Tensor& x) { return call(x); });
}

TEST(ActivationCheckpoint, AModuleMayBeUsedTwiceAndOutsideToo) {
  compare(0.25, [](const auto& call, const Block&, const at::Tensor& x) { return call(call(x) * 2); });
  compare(0.25, [](const auto& call, const Block& block, const at::Tensor& x) {
    Block same = block;
    return call(same->forward(x)) + x;
  });
}

TEST(ActivationCheckpoint, ALayerThatIsRegisteredTwiceCountsOnce) {
  const torch::nn::Linear tied(4, 4);
  torch::nn::Sequential module(tied, torch::nn::Tanh(), tied);
  ASSERT_EQ(module->parameters().size(), 4u);
  fill(*module);
  const at::Tensor x = numbers({5, 4}, 9);
  module->forward(x).square().sum().backward();
  const at::Tensor expected = tied->weight.grad().clone();
  module->zero_grad();
  activation_checkpoint(module, x).square().sum().backward();
  EXPECT_TRUE(at::equal(tied->weight.grad(), expected));
}

TEST(ActivationCheckpoint, SomeOfItMayBeFrozen) {
  compare(0, [](const auto& call, const Block& block, const at::Tensor& x) {
    block->first->weight.set_requires_grad(false);
    block->norm->bias.set_requires_grad(false);
    return call(x.detach()) + x;
  });
  compare(0, [](const auto& call, const Block& block, const at::Tensor& x) {
    for (at::Tensor& parameter : block->parameters()) parameter.set_requires_grad(false);
    return call(x);
  });
}

TEST(ActivationCheckpoint, KeepsNothingOfTheInside) {
  Block block;
  fill(*block);
  // Its saved tensors would be those of seven nodes; the one node's inputs are the block's input and parameters.
  const at::Tensor output = activation_checkpoint(block, numbers({5, 4}, 1));
  EXPECT_EQ(block->calls, 1);
  EXPECT_EQ(output.grad_fn()->num_inputs(), 1U);
  for (const auto& edge : output.grad_fn()->next_edges()) {
    EXPECT_TRUE(!edge.function || edge.function->num_outputs() == 0);  // Leaves only.
  }
  output.sum().backward({}, /*retain_graph=*/true);
  EXPECT_EQ(block->calls, 2);
  const at::Tensor once = block->first->weight.grad().clone();
  output.sum().backward();
  EXPECT_EQ(block->calls, 3);
  EXPECT_TRUE(at::equal(block->first->weight.grad(), once * 2));
}

TEST(ActivationCheckpoint, IsThePlainCallWhereNothingNeedsAGradient) {
  Block block;
  {
    const at::NoGradGuard no_grad;
    EXPECT_FALSE(activation_checkpoint(block, numbers({5, 4}, 1)).requires_grad());
  }
  for (at::Tensor& parameter : block->parameters()) parameter.set_requires_grad(false);
  EXPECT_FALSE(activation_checkpoint(block, numbers({5, 4}, 1)).requires_grad());
}

TEST(ActivationCheckpoint, TakesAndReturnsSeveralTensors) {
  const at::Tensor weight = numbers({4, 4}, 1).requires_grad_();
  const CheckpointedFunction function = [&](const Tensors& in) -> Tensors {
    // The index needs no gradient, the last output gets none, and an optional input is left out.
    EXPECT_FALSE(in[3].defined());
    const at::Tensor product = in[0].matmul(weight) * in[1];
    return {product.exp(), product.argmax(1), product.index_select(0, in[2]), product.sin()};
  };
  const auto run = [&](bool checkpointed) {
    const at::Tensor a = numbers({3, 4}, 2).requires_grad_();
    const at::Tensor b = numbers({3, 4}, 3);
    const Tensors inputs = {a, b, at::tensor({2, 0}), at::Tensor()};
    weight.mutable_grad() = at::Tensor();
    const Tensors out =
        checkpointed ? activation_checkpoint_function(function, inputs, {.parameters = {weight, b}}) : function(inputs);
    EXPECT_EQ(out[1].scalar_type(), at::kLong);
    EXPECT_FALSE(out[1].requires_grad());
    (out[0].sum() + out[2].square().sum()).backward();
    return Tensors{out[0].detach(), out[1], out[2].detach(), a.grad(), weight.grad()};
  };
  expect_equal(run(true), run(false));
}

TEST(ActivationCheckpoint, MayReturnWhatItWasGiven) {
  const CheckpointedFunction function = [](const Tensors& in) -> Tensors {
    const at::Tensor sum = in[0] + in[1];
    return {in[0], in[1], sum, sum};
  };
  const at::Tensor a = numbers({3}, 1).requires_grad_();
  const at::Tensor b = numbers({3}, 2);
  const Tensors out = activation_checkpoint_function(function, {a, b});
  EXPECT_FALSE(b.requires_grad());
  EXPECT_TRUE(a.is_leaf());
  EXPECT_TRUE(at::equal(out[0], a) && at::equal(out[1], b) && at::equal(out[2], out[3]));
  (out[0] * 2 + out[1] * 5 + out[2] * 3 + out[3] * 7).sum().backward();
  EXPECT_TRUE(at::equal(a.grad(), at::full({3}, 12.0F)));
}

TEST(ActivationCheckpoint, Nests) {
  Tensors results[2];
  int calls[2];
  for (const bool checkpointed : {false, true}) {
    Block inner;
    Block outer;
    fill(*inner);
    fill(*outer);
    const CheckpointedFunction both = [&](const Tensors& in) -> Tensors {
      const at::Tensor middle = outer->forward(in[0]);
      return {checkpointed ? activation_checkpoint(inner, middle) : inner->forward(middle)};
    };
    Tensors parameters = inner->parameters();
    for (const at::Tensor& parameter : outer->parameters()) parameters.push_back(parameter);
    const at::Tensor input = numbers({5, 4}, 9).requires_grad_();
    const Tensors out =
        checkpointed ? activation_checkpoint_function(both, {input}, {.parameters = parameters}) : both({input});
    out[0].square().sum().backward();
    Tensors& result = results[checkpointed ? 1 : 0];
    result = gradients_of(*inner);
    for (const at::Tensor& gradient : gradients_of(*outer)) result.push_back(gradient);
    result.push_back(input.grad());
    calls[checkpointed ? 1 : 0] = inner->calls;
  }
  expect_equal(results[1], results[0]);
  EXPECT_EQ(calls[0], 1);
  EXPECT_EQ(calls[1], 3);  // Forward, the outer's recomputation, its own.
}

TEST(ActivationCheckpoint, RepeatsUnderTheForwardsAutocast) {
  torch::nn::Linear linear(4, 4);
  std::vector<at::ScalarType> types;
  const CheckpointedFunction function = [&](const Tensors& in) -> Tensors {
    const at::Tensor out = linear(in[0]);
    types.push_back(out.scalar_type());
    return {out.to(at::kFloat)};
  };
  at::autocast::set_cpu_enabled(true);
  const Tensors out =
      activation_checkpoint_function(function, {numbers({2, 4}, 1)}, {.parameters = linear->parameters()});
  // The first run left no cast of the weight behind, which would have no history.
  const at::Tensor plain = linear(numbers({2, 4}, 1));
  at::autocast::set_cpu_enabled(false);
  at::autocast::clear_cache();
  out[0].sum().backward();
  EXPECT_EQ(types, (std::vector<at::ScalarType>{at::kBFloat16, at::kBFloat16}));
  EXPECT_FALSE(at::autocast::is_cpu_enabled());
  const at::Tensor once = linear->weight.grad().clone();
  plain.to(at::kFloat).sum().backward();
  EXPECT_TRUE(at::equal(linear->weight.grad(), once * 2));
}

TEST(ActivationCheckpoint, RefusesToLoseAGradient) {
  const at::Tensor weight = numbers({4, 4}, 1).requires_grad_();
  const at::Tensor input = numbers({3, 4}, 2).requires_grad_();
  const auto product = [&](const at::Tensor& factor) -> CheckpointedFunction {
    return [factor](const Tensors& in) -> Tensors { return {in[0].matmul(factor)}; };
  };
  const auto backward = [&](const at::Tensor& factor, const CheckpointOptions& options) {
    activation_checkpoint_function(product(factor), {input}, options)[0].sum().backward();
  };
  EXPECT_THAT(error_text<UsageError>([&] { backward(weight, {}); }),
              AllOf(HasSubstr("uses a parameter, f32 [4, 4]"), HasSubstr("neither among inputs nor parameters")));
  EXPECT_THAT(error_text<UsageError>([&] { backward(weight * 2, {.parameters = {weight}}); }),
              HasSubstr("the result of MulBackward"));
  backward(weight, {.parameters = {weight}});
  EXPECT_TRUE(weight.grad().defined());
}

TEST(ActivationCheckpoint, NamesWhatItCannotRepeat) {
  const at::Tensor input = numbers({3, 4}, 2).requires_grad_();
  std::int64_t rows = 4;
  const auto shrinking = [&](const Tensors& in) -> Tensors { return {in[0].narrow(0, 0, --rows) * 2}; };
  EXPECT_THAT(error_text<UsageError>([&] { activation_checkpoint_function(shrinking, {input})[0].sum().backward(); }),
              HasSubstr("other outputs in backward than in forward"));
  const auto square = [](const Tensors& in) -> Tensors { return {in[0] * in[0]}; };
  const at::Tensor loss = activation_checkpoint_function(square, {input})[0].sum();
  EXPECT_THAT(error_text<UsageError>([&] { torch::autograd::grad({loss}, {input}, {}, true, true); }),
              HasSubstr("create_graph"));
  EXPECT_THROW(activation_checkpoint_function(nullptr, {input}), UsageError);
}

struct NetImpl : torch::nn::Module {
  explicit NetImpl(bool checkpoints, const Group& group = nullptr)
      : checkpointed(checkpoints), norm(register_module("norm", SyncBatchNorm(4, group))) {
    fill(*this);
    to(at::kDouble);
  }
  at::Tensor forward(at::Tensor x) {
    x = call(first, x);
    return call(last, call(middle, call(norm, x)));
  }
  template <typename Module>
  at::Tensor call(Module& module, const at::Tensor& x) {
    return checkpointed ? activation_checkpoint(module, torch::tanh(x)) : module->forward(torch::tanh(x));
  }
  bool checkpointed;
  torch::nn::Linear first = register_module("first", torch::nn::Linear(4, 4));
  torch::nn::Linear middle = register_module("middle", torch::nn::Linear(4, 4));
  torch::nn::Linear last = register_module("last", torch::nn::Linear(4, 2));
  SyncBatchNorm norm;
};
TORCH_MODULE(Net);

TEST(ActivationCheckpoint, UnderDdpTrainsAsOneProcessDoes) {
  run_rank_threads(2, [](const Group& group) {
    const at::Tensor x = numbers({6, 4}, 1).to(at::kDouble);
    const at::Tensor target = numbers({6, 2}, 2).to(at::kDouble);
    const auto train = [](Net& net, const auto& forward, const at::Tensor& input, const at::Tensor& wanted) {
      torch::optim::SGD optimizer(net->parameters(), 0.1);
      for (int step = 0; step < 4; ++step) {
        optimizer.zero_grad();
        torch::mse_loss(forward(input), wanted).backward();
        optimizer.step();
      }
    };
    Net alone(false);
    train(
        alone, [&](const at::Tensor& input) { return alone->forward(input); }, x, target);

    Net net(true, group->new_group({0, 1}, {.name = "norms"}));
    DistributedDataParallel ddp(net, group);
    const auto mine = [&](const at::Tensor& all) { return all.chunk(2)[static_cast<std::size_t>(group->rank())]; };
    train(
        net, [&](const at::Tensor& input) { return ddp->forward(input); }, mine(x), mine(target));
    EXPECT_EQ(ddp->stats().gradient_copies, 0);
    const auto expected = alone->named_parameters();
    for (const auto& item : net->named_parameters()) {
      EXPECT_TRUE(at::allclose(item.value(), expected[item.key()], 1e-10, 1e-12)) << item.key();
    }
    EXPECT_TRUE(at::equal(net->norm->num_batches_tracked, at::full({}, 4, at::kLong)));
    EXPECT_TRUE(at::allclose(net->norm->running_var, alone->norm->running_var, 1e-10, 1e-12));
  });
}

/// Of its two parameters, a forward uses one.
struct EitherImpl : torch::nn::Module {
  at::Tensor forward(const at::Tensor& x) {
    const CheckpointedFunction function = [weight = uses_second ? second : first](const Tensors& in) -> Tensors {
      return {in[0] * weight};
    };
    return activation_checkpoint_function(function, {x}, {.parameters = parameters()})[0];
  }
  bool uses_second = false;
  at::Tensor first = register_parameter("first", at::ones({3}));
  at::Tensor second = register_parameter("second", at::ones({3}));
};

TEST(ActivationCheckpoint, AParameterThatItLeavesOutIsUnusedUnderDdp) {
  run_rank_threads(2, [](const Group& group) {
    const auto net = std::make_shared<EitherImpl>();
    DistributedDataParallel ddp(net, group, {.find_unused_parameters = true});
    const auto step = [&](bool uses_second) {
      net->uses_second = uses_second;
      ddp->forward(at::full({3}, 2.0F)).sum().backward();
    };
    {
      const auto guard = ddp->no_sync();
      step(false);
      EXPECT_FALSE(net->second.grad().defined());
    }
    step(false);
    EXPECT_TRUE(all_equal(net->first.grad(), 4));
    EXPECT_FALSE(net->second.grad().defined());
    EXPECT_EQ(ddp->stats().last_unused, std::vector<std::string>{"second"});
    // What some rank uses is averaged; another adds what it has, or nothing.
    step(group->rank() == 1);
    EXPECT_TRUE(all_equal(net->first.grad(), 5));
    EXPECT_TRUE(all_equal(net->second.grad(), 1));
    // What none uses is left as it was, the ranks' own.
    net->second.grad().fill_(10 + group->rank());
    step(false);
    EXPECT_TRUE(all_equal(net->first.grad(), 7));
    EXPECT_TRUE(all_equal(net->second.grad(), 10 + group->rank()));
  });
}

}  // namespace
}  // namespace lockstep
