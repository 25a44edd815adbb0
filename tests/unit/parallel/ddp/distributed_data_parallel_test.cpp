#include "lockstep/parallel/ddp/distributed_data_parallel.h"

#include <mutex>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/base/error.h"
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

/// A float and an integer buffer, which each rank fills with its own rank, and a parameter.
class WithBuffersImpl : public torch::nn::Module {
 public:
  explicit WithBuffersImpl(int rank)
      : weight(register_parameter("weight", at::ones({2}))),
        mean(register_buffer("mean", at::full({3}, rank, at::kFloat))),
        count(register_buffer("count", at::full({}, rank, at::kLong))) {
    register_buffer("absent", at::Tensor());
  }
  at::Tensor forward() { return weight.sum(); }

  void set(int value) {
    mean.fill_(value);
    count.fill_(value);
  }
  bool are(int value) const { return all_equal(mean, value) && all_equal(count, value); }

  at::Tensor weight, mean, count;
};
TORCH_MODULE(WithBuffers);

class DdpWorlds : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Worlds, DdpWorlds, ::testing::Values(1, 2, 3, 4));

TEST_P(DdpWorlds, StartsFromParametersAndBuffersOfRankZero) {
  run_rank_threads(GetParam(), [](const auto& group) {
    const int rank = group->rank();
    WeightedSum model(Specs{{{3, 4}}, {{5}, at::kDouble}, {{2}, at::kHalf, false}, {{0}}, {{4}, at::kBFloat16}},
                      rank + 10);
    const at::Tensor transposed =
        model->register_parameter("transposed", (at::arange(12.0) * (rank + 1)).view({4, 3}).t());
    model->register_buffer("steps", at::full({}, rank + 3, at::kLong));
    const void* const before = model->weights[0].data_ptr();
    DistributedDataParallel ddp(model, group);
    for (const auto& weight : model->weights) EXPECT_TRUE(all_equal(weight, 10));
    EXPECT_TRUE(at::equal(transposed, at::arange(12.0).view({4, 3}).t()));
    EXPECT_TRUE(all_equal(model->buffers()[0], 3));
    EXPECT_EQ(model->weights[0].data_ptr(), before);
  });
}

TEST_P(DdpWorlds, ABuffersValueIsRankZerosInEachForwardThatSynchronises) {
  run_rank_threads(GetParam(), [](const auto& group) {
    WithBuffers model(group->rank());
    DistributedDataParallel ddp(model, group);
    for (int i = 0; i < 3; ++i) {
      model->set(group->rank() + 10 * i);
      ddp->forward().backward();
      EXPECT_TRUE(model->are(10 * i));
    }
    model->set(group->rank());
    {
      const auto guard = ddp->no_sync();
      ddp->forward().backward();
      const at::NoGradGuard no_grad;
      ddp->forward();
      EXPECT_TRUE(model->are(group->rank()));
    }
    // Evaluation: in the first forward that synchronises, and then the ranks need not call equally often.
    const at::NoGradGuard no_grad;
    ddp->forward();
    EXPECT_TRUE(model->are(0));
    model->set(group->rank());
    for (int i = 0; i < group->rank(); ++i) ddp->forward();
    EXPECT_TRUE(model->are(group->rank()));
  });
}

TEST(Ddp, LeavesBuffersAloneWhereAskedTo) {
  run_rank_threads(2, [](const auto& group) {
    WithBuffers model(0);
    DistributedDataParallel ddp(model, group, {.broadcast_buffers = false});
    model->set(group->rank());
    ddp->forward().backward();
    EXPECT_TRUE(model->are(group->rank()));
  });
}

std::string mismatch(int world, const std::function<void(const std::shared_ptr<ProcessGroup>&)>& build) {
  std::mutex mutex;
  std::vector<std::string> texts;
  run_rank_threads(world, [&](const auto& group) {
    const std::string text = error_text<MismatchError>([&] { build(group); });
    const std::lock_guard lock(mutex);
    texts.push_back(text);
  });
  for (const std::string& text : texts) EXPECT_EQ(text, texts[0]);  // Every rank says the same.
  return texts[0];
}

TEST(Ddp, NamesTheFirstParameterWhoseShapeDiffers) {
  const std::string text = mismatch(3, [](const auto& group) {
    SmallNet net(group->rank() == 1 ? 6 : 5);
    DistributedDataParallel ddp(net, group);
  });
  EXPECT_THAT(text, HasSubstr("parameter 0 'first.weight' is f32 [5, 3] on rank 0 but f32 [6, 3] on rank 1"));
}

TEST(Ddp, NamesOtherDifferencesOfModules) {
  const auto differ = [](const Specs& zero, const Specs& one) {
    return mismatch(2, [&](const auto& group) {
      WeightedSum model(group->rank() == 0 ? zero : one);
      DistributedDataParallel ddp(model, group);
    });
  };
  EXPECT_THAT(differ({{{2}}, {{3}}}, {{{2}}, {{3}, at::kDouble}}),
              HasSubstr("parameter 1 'p1' is f32 [3] on rank 0 but f64 [3] on rank 1"));
  EXPECT_THAT(differ({{{2}}, {{3}}}, {{{2}}, {{3}, at::kFloat, false}}),
              HasSubstr("is f32 [3] on rank 0 but f32 [3], frozen on rank 1"));
  EXPECT_THAT(differ({{{2}}}, {{{2}}, {{3}}}),
              HasSubstr("parameter 1 'p1' (f32 [3]) exists on rank 1 but not on rank 0"));
  EXPECT_THAT(differ({{{2}}, {{3}}}, {{{2}}}),
              HasSubstr("parameter 1 'p1' (f32 [3]) exists on rank 0 but not on rank 1"));
}

TEST(Ddp, NamesDifferencesOfNamesBuffersAndOptions) {
  const auto named = [](const auto& group) {
    WeightedSum model(Specs{{{2}}});
    model->register_parameter(group->rank() == 0 ? "left" : "right", at::ones({1}));
    DistributedDataParallel ddp(model, group);
  };
  EXPECT_THAT(mismatch(2, named),
              HasSubstr("parameter 1 is 'left' (f32 [1]) on rank 0 but 'right' (f32 [1]) on rank 1"));
  const auto buffered = [](const auto& group) {
    WeightedSum model(Specs{{{2}}});
    if (group->rank() == 0) model->register_buffer("mean", at::ones({1}));
    DistributedDataParallel ddp(model, group);
  };
  EXPECT_THAT(mismatch(2, buffered), HasSubstr("buffer 0 'mean' (f32 [1]) exists on rank 0 but not on rank 1"));
  const auto chosen = [](const auto& group) {
    WeightedSum model(Specs{{{2}}});
    DistributedDataParallel ddp(model, group, {.bucket_cap_bytes = 100u + static_cast<std::size_t>(group->rank())});
  };
  EXPECT_THAT(mismatch(2, chosen), HasSubstr("option 'bucket_cap_bytes' is 100 on rank 0 but 101 on rank 1"));
}

TEST(Ddp, RefusesAModuleThatItCannotTrain) {
  run_rank_threads(2, [](const auto& group) {
    WeightedSum frozen(Specs{{{2}, at::kFloat, false}});
    EXPECT_THAT(error_text<UsageError>([&] { DistributedDataParallel ddp(frozen, group); }),
                HasSubstr("no parameter that requires a gradient"));
  });
  run_rank_threads(2, [](const auto& group) {
    WeightedSum model(Specs{{{2}}});
    if (group->rank() == 1) model->register_parameter("odd", at::ones({2}, at::kComplexFloat));
    const auto make = [&] { DistributedDataParallel ddp(model, group); };
    if (group->rank() == 1) {
      EXPECT_THAT(error_text<UsageError>(make), HasSubstr("parameter 'odd' is ComplexFloat [2]"));
    } else {
      EXPECT_THAT(error_text<AbortedError>(make), HasSubstr("parameter 'odd' is ComplexFloat [2]"));
    }
  });
  WeightedSum model(Specs{{{2}}});
  EXPECT_THAT(error_text<UsageError>([&] { DistributedDataParallel ddp(model, nullptr); }), HasSubstr("group is null"));
}

at::Tensor inputs(int step, int samples) {
  return (at::arange(3.0 * samples, at::kDouble).view({samples, 3}) * (0.1 + 0.01 * step)).sin();
}
at::Tensor targets(int step, int samples) {
  return (at::arange(2.0 * samples, at::kDouble).view({samples, 2}) * (0.2 + 0.02 * step)).cos();
}

/// Weights that do not come from the one random generator that all threads share.
TEST(DistributedDataParallel, SeveralForwardsBeforeOneBackwardLeaveNoRankBehind) {
  run_rank_threads(2, [](const auto& group) {
    SmallNet net(5, true);
    DistributedDataParallel ddp(net, group);
    for (int step = 0; step < 2; ++step) {
      // BatchNorm saves its buffers for backward, and the second forward takes rank 0's.
      const at::Tensor first = ddp->forward(at::ones({4, 3}));
      const at::Tensor second = ddp->forward(at::arange(12, at::kFloat).view({4, 3}) * (group->rank() + 1.0));
      (first.sum() + second.sum()).backward();
    }
    EXPECT_EQ(ddp->stats().steps, 2);
  });
}

void fill(SmallNet& net) {
  const at::NoGradGuard no_grad;
  net->to(at::kDouble);
  double offset = 0;
  for (const auto& parameter : net->parameters()) {
    parameter.copy_((at::arange(parameter.numel(), at::kDouble) + offset).sin().view(parameter.sizes()));
    offset += 0.5;
  }
}

// Ten steps of SGD on `micro` microbatches of the rank's share of 12 samples; the last one synchronises.
std::vector<at::Tensor> train(const std::shared_ptr<ProcessGroup>& group, int micro) {
  SmallNet net;
  fill(net);
  DistributedDataParallel ddp(net, group, {.bucket_cap_bytes = 64, .first_bucket_bytes = 1});
  torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(0.1).momentum(0.9));
  const int samples = 12 / group->world_size() / micro;
  const auto loss_of = [&](int step, int part) {
    const int first = (group->rank() * micro + part) * samples;
    const at::Tensor x = inputs(step, 12).narrow(0, first, samples);
    return at::mse_loss(ddp->forward(x), targets(step, 12).narrow(0, first, samples)) / micro;
  };
  for (int step = 0; step < 10; ++step) {
    optimizer.zero_grad();
    for (int part = 0; part + 1 < micro; ++part) {
      const auto guard = ddp->no_sync();
      loss_of(step, part).backward();
    }
    loss_of(step, micro - 1).backward();
    optimizer.step();
  }
  std::vector<at::Tensor> weights;
  for (const auto& parameter : net->parameters()) weights.push_back(parameter.detach().clone());
  return weights;
}

class DdpTraining : public ::testing::TestWithParam<std::tuple<int, int>> {};
INSTANTIATE_TEST_SUITE_P(WorldsAndMicrobatches, DdpTraining,
                         ::testing::Values(std::tuple(1, 3), std::tuple(2, 1), std::tuple(2, 3), std::tuple(3, 2),
                                           std::tuple(4, 1)));

TEST_P(DdpTraining, EqualsOneRankWithTheSameGlobalBatch) {
  const auto [world, micro] = GetParam();
  std::vector<at::Tensor> control;
  run_rank_threads(1, [&](const auto& group) { control = train(group, 1); });
  std::vector<std::vector<at::Tensor>> results(static_cast<std::size_t>(world));
  run_rank_threads(world, [&, micro = micro](const auto& group) {
    results[static_cast<std::size_t>(group->rank())] = train(group, micro);
  });
  for (const auto& weights : results) {
    for (std::size_t i = 0; i < control.size(); ++i) {
      EXPECT_TRUE(at::equal(weights[i], results[0][i]));  // Ranks agree bit for bit.
      EXPECT_LE((weights[i] - control[i]).abs().max().item<double>(), 1e-6);
    }
  }
}

TEST(Ddp, TrainsANetworkWithBatchNormalisation) {
  std::vector<std::vector<at::Tensor>> states(2);
  run_rank_threads(2, [&](const auto& group) {
    SmallNet net(5, true);
    fill(net);
    DistributedDataParallel ddp(net, group);
    torch::optim::SGD optimizer(net->parameters(), 0.1);
    for (int step = 0; step < 4; ++step) {
      optimizer.zero_grad();
      at::mse_loss(ddp->forward(inputs(step + 10 * group->rank(), 6)), targets(step, 6)).backward();
      optimizer.step();
    }
    EXPECT_EQ(net->norm->num_batches_tracked.template item<std::int64_t>(), 4);
    const at::NoGradGuard no_grad;
    net->eval();
    ddp->forward(inputs(0, 6));
    for (const auto& tensor : net->parameters())
      states[static_cast<std::size_t>(group->rank())].push_back(tensor.detach());
    for (const auto& tensor : net->buffers()) states[static_cast<std::size_t>(group->rank())].push_back(tensor);
  });
  ASSERT_EQ(states[0].size(), 9u);
  for (std::size_t i = 0; i < states[0].size(); ++i) EXPECT_TRUE(at::equal(states[0][i], states[1][i])) << i;
}

TEST(Ddp, CountsWhatItDid) {
  run_rank_threads(2, [](const auto& group) {
    WeightedSum model(Specs{{{100}}, {{200}}});
    DistributedDataParallel ddp(model, group, {.bucket_cap_bytes = 1000, .first_bucket_bytes = 500});
    EXPECT_EQ(ddp.stats().bucket_bytes, (std::vector<std::size_t>{832, 448}));
    for (int i = 0; i < 3; ++i) ddp->forward(1).backward();
    EXPECT_EQ(ddp.stats().steps, 3);
    EXPECT_TRUE(ddp.stats().rebuilt);
    EXPECT_GE(ddp.stats().exposed, ddp.stats().last_wait + ddp.stats().last_in_hooks);
    EXPECT_GT(ddp.stats().exposed.count(), 0);
    EXPECT_EQ(ddp.stats().bytes, 3 * (832 + 448));
  });
}

TEST(Ddp, TheGuardRestoresWhatWasBefore) {
  run_rank_threads(1, [](const auto& group) {
    WeightedSum model(Specs{{{4}}});
    DistributedDataParallel ddp(model, group);
    {
      const auto outer = ddp->no_sync();
      { const auto inner = ddp->no_sync(); }
      ddp->forward(1).backward();
      EXPECT_EQ(ddp.stats().steps, 0);
    }
    ddp->forward(1).backward();
    EXPECT_EQ(ddp.stats().steps, 1);
  });
}

TEST(Ddp, HoldsAModuleBySharedPointerToo) {
  run_rank_threads(2, [](const auto& group) {
    const auto module = std::make_shared<WeightedSumImpl>(Specs{{{4}}});
    DistributedDataParallel ddp(module, group);
    ddp->forward(2.0 * group->rank()).backward();
    EXPECT_TRUE(all_equal(module->weights[0].grad(), 1));
  });
}

}  // namespace
}  // namespace lockstep
