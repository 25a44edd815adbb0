// DistributedDataParallel::step_in_backward: the bits of optimizer.step() behind backward, bucket by bucket.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/base/error.h"
#include "lockstep/parallel/ddp/distributed_data_parallel.h"
#include "lockstep/parallel/nn/clip_grad.h"
#include "lockstep/parallel/trace/trace.h"
#include "tests/unit/parallel/ddp/models.h"
#include "tests/unit/parallel/group/rank_threads.h"

namespace lockstep {
namespace {

using test::all_equal;
using test::error_text;
using test::run_rank_threads;
using test::SmallNet;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::Field;
using ::testing::HasSubstr;

/// Every parameter is a bucket of its own, and whatever the sentinel finds throws.
const DdpOptions kTinyBuckets{.bucket_cap_bytes = 1,
                              .first_bucket_bytes = 1,
                              .sentinel = {.checksum_every = 1, .action = SentinelAction::kThrow}};

using MakeOptimizer = std::function<std::unique_ptr<torch::optim::Optimizer>(SmallNet&)>;

/// Two groups with settings of their own.
std::vector<torch::optim::OptimizerParamGroup> two_groups(SmallNet& net,
                                                          std::unique_ptr<torch::optim::OptimizerOptions> a,
                                                          std::unique_ptr<torch::optim::OptimizerOptions> b) {
  std::vector<torch::optim::OptimizerParamGroup> groups;
  // Not the order of the buckets, and layers are mixed.
  groups.emplace_back(std::vector<at::Tensor>{net->first->weight, net->second->bias}, std::move(a));
  groups.emplace_back(std::vector<at::Tensor>{net->second->weight, net->first->bias}, std::move(b));
  return groups;
}

std::unique_ptr<torch::optim::Optimizer> sgd(SmallNet& net) {
  using Options = torch::optim::SGDOptions;
  return std::make_unique<torch::optim::SGD>(two_groups(net, std::make_unique<Options>(Options(0.1).momentum(0.9)),
                                                        std::make_unique<Options>(Options(0.05).weight_decay(0.1))),
                                             Options(0.1));
}

std::unique_ptr<torch::optim::Optimizer> adam(SmallNet& net) {
  using Options = torch::optim::AdamOptions;
  return std::make_unique<torch::optim::Adam>(
      two_groups(net, std::make_unique<Options>(Options(0.02)), std::make_unique<Options>(Options(0.01).amsgrad(true))),
      Options(0.02));
}

/// Trains from the same weights, one step for each of `inputs` in which `body` runs forward and backward.
struct Replica {
  Replica(const std::shared_ptr<ProcessGroup>& group, const MakeOptimizer& make, bool in_backward,
          const DdpOptions& options = kTinyBuckets)
      : inside(in_backward), net(seeded()), ddp(net, group, options), optimizer(make(net)) {
    if (inside) ddp.step_in_backward(*optimizer);
  }

  static SmallNet seeded() {
    // Ranks are threads, which share the default generator.
    SmallNet net(5);
    const at::NoGradGuard no_grad;
    double value = 0.1;
    for (auto& parameter : net->parameters()) {
      parameter.copy_(at::linspace(-value, value, parameter.numel()).view_as(parameter));
      value += 0.2;
    }
    return net;
  }

  at::Tensor loss(double x) { return ddp.forward(at::full({2, 3}, x)).pow(2).sum(); }
  void step(double x) {
    if (!inside) optimizer->zero_grad();
    loss(x).backward();
    if (!inside) optimizer->step();
  }
  /// The backward of one step over two inputs, of which the last averages.
  void accumulate(double first, double second) {
    if (!inside) optimizer->zero_grad();
    {
      const auto guard = ddp.no_sync();
      loss(first).backward();
    }
    loss(second).backward();
    if (!inside) optimizer->step();
  }

  bool inside;
  SmallNet net;
  DistributedDataParallel<SmallNet> ddp;
  std::unique_ptr<torch::optim::Optimizer> optimizer;
};

void expect_same_bits(const SmallNet& a, const SmallNet& b) {
  const auto mine = a->parameters();
  const auto theirs = b->parameters();
  for (std::size_t i = 0; i < mine.size(); ++i) EXPECT_TRUE(at::equal(mine[i], theirs[i])) << i;
}

class StepInBackward : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Worlds, StepInBackward, ::testing::Values(1, 2, 3));

TEST_P(StepInBackward, LeavesTheBitsOfAStepBehindIt) {
  for (const MakeOptimizer& make : {MakeOptimizer(sgd), MakeOptimizer(adam)}) {
    run_rank_threads(GetParam(), [&](const auto& group) {
      Replica behind(group, make, false);
      Replica inside(group, make, true);
      for (int step = 1; step <= 8; ++step) {
        const double x = 0.1 * step + group->rank();
        if (step == 5) {
          // As a schedule does.
          for (Replica* replica : {&behind, &inside}) replica->optimizer->param_groups()[1].options().set_lr(0.03);
        }
        behind.step(x);
        inside.step(x);
        expect_same_bits(inside.net, behind.net);
        for (const at::Tensor& parameter : inside.net->parameters()) EXPECT_TRUE(all_equal(parameter.grad(), 0));
      }
      EXPECT_EQ(inside.ddp.stats().gradient_copies, 0);
      EXPECT_GT(inside.ddp.stats().last_optimizer.count(), 0);
      EXPECT_EQ(behind.ddp.stats().last_optimizer.count(), 0);
      // Whole again, for checkpoints.
      for (const auto& parameters : inside.optimizer->param_groups()) EXPECT_EQ(parameters.params().size(), 2u);
    });
  }
}

TEST_P(StepInBackward, StepsOnWhatWasAccumulated) {
  run_rank_threads(GetParam(), [](const auto& group) {
    Replica behind(group, sgd, false);
    Replica inside(group, sgd, true);
    for (int step = 1; step <= 4; ++step) {
      const double x = 0.1 * step + group->rank();
      behind.accumulate(x, -x);
      inside.accumulate(x, -x);
      expect_same_bits(inside.net, behind.net);
    }
    EXPECT_TRUE(inside.ddp.findings().empty());
  });
}

TEST_P(StepInBackward, WithAHookAndFewerInputsOnSomeRanks) {
  run_rank_threads(GetParam(), [](const auto& group) {
    Replica behind(group, sgd, false);
    Replica inside(group, sgd, true);
    for (Replica* replica : {&behind, &inside}) {
      replica->ddp.register_comm_hook(bf16_compress_hook());
      for (int epoch = 0; epoch < 2; ++epoch) {
        replica->ddp.join([&] {
          for (int step = 1; step <= 2 + group->rank(); ++step) replica->step(0.1 * step + group->rank());
        });
      }
    }
    expect_same_bits(inside.net, behind.net);
  });
}

TEST_P(StepInBackward, FrozenParametersStayAndSeveralOptimizersStep) {
  run_rank_threads(GetParam(), [](const auto& group) {
    const auto run = [&](bool in_backward) {
      SmallNet net = Replica::seeded();
      DistributedDataParallel ddp(net, group, kTinyBuckets);
      torch::optim::SGD first(net->first->parameters(), torch::optim::SGDOptions(0.1).momentum(0.9));
      torch::optim::Adam second(net->second->parameters(), torch::optim::AdamOptions(0.01));
      const std::vector<torch::optim::Optimizer*> optimizers = {&first, &second};
      if (in_backward) {
        for (auto* optimizer : optimizers) ddp.step_in_backward(*optimizer);
      }
      for (int step = 0; step < 6; ++step) {
        const at::Tensor frozen = net->first->weight.detach().clone();
        net->first->weight.set_requires_grad(step < 2 || step >= 4);
        if (!in_backward) {
          for (auto* optimizer : optimizers) optimizer->zero_grad();
        }
        // Without a gradient, as a frozen parameter that is to stay must be.
        if (!net->first->weight.requires_grad()) net->first->weight.mutable_grad() = at::Tensor();
        ddp->forward(at::full({2, 3}, 0.2 * step + group->rank() + 1)).pow(2).sum().backward();
        if (!in_backward) {
          for (auto* optimizer : optimizers) optimizer->step();
        }
        EXPECT_EQ(at::equal(frozen, net->first->weight), step == 2 || step == 3) << step;
      }
      return net;
    };
    expect_same_bits(run(true), run(false));
  });
}

TEST(StepInBackward, LeavesToOthersWhatIsTheirs) {
  run_rank_threads(2, [](const auto& group) {
    const auto run = [&](bool in_backward) {
      SmallNet net = Replica::seeded();
      DistributedDataParallel ddp(net, group);  // One bucket.
      torch::optim::SGD first(net->first->parameters(), 0.1);
      torch::optim::SGD second(net->second->parameters(), 0.1);
      if (in_backward) ddp.step_in_backward(first);
      for (int step = 1; step <= 4; ++step) {
        if (!in_backward) first.zero_grad();
        second.zero_grad();
        ddp.average_over_samples(1 + group->rank());
        ddp->forward(at::full({2, 3}, 0.2 * step + group->rank())).pow(2).sum().backward();
        clip_grad_norm(net->second->parameters(), 0.1);
        if (!in_backward) first.step();
        second.step();
        if (step == 2) net->first->weight.mutable_grad() = at::Tensor();
      }
      return net;
    };
    expect_same_bits(run(true), run(false));
  });
}

TEST(StepInBackward, AStepOnARanksOwnGradientsIsFound) {
  run_rank_threads(2, [](const auto& group) {
    SmallNet net = Replica::seeded();
    DistributedDataParallel ddp(net, group);
    torch::optim::SGD optimizer(net->parameters(), 0.1);
    ddp.step_in_backward(optimizer);
    {
      const auto guard = ddp.no_sync();
      ddp->forward(at::ones({2, 3})).sum().backward();
    }
    optimizer.step();
    ddp->forward(at::ones({2, 3})).sum().backward();
    ASSERT_FALSE(ddp.findings().empty());
    EXPECT_EQ(ddp.findings()[0].kind, FindingKind::kGradientsNotAveraged);
  });
}

TEST(StepInBackwardErrors, WhatCannotStepByBucketsIsRefused) {
  run_rank_threads(2, [](const auto& group) {
    SmallNet net = Replica::seeded();
    DistributedDataParallel ddp(net, group);
    torch::optim::LBFGS lbfgs(net->parameters());
    EXPECT_THAT(error_text<UsageError>([&] { ddp.step_in_backward(lbfgs); }), HasSubstr("LBFGS needs all gradients"));
    SmallNet other;
    torch::optim::SGD foreign({net->first->weight, other->first->weight}, 0.1);
    EXPECT_THAT(error_text<UsageError>([&] { ddp.step_in_backward(foreign); }),
                AllOf(HasSubstr("1 of the optimizer's 2 parameters"), HasSubstr("an optimizer of their own")));
    torch::optim::SGD fine(net->parameters(), 0.1);
    ddp.step_in_backward(fine);
    EXPECT_THAT(error_text<UsageError>([&] { ddp.step_in_backward(fine); }), HasSubstr("already"));
    DistributedDataParallel unused(net, group, DdpOptions{.find_unused_parameters = true});
    EXPECT_THAT(error_text<UsageError>([&] { unused.step_in_backward(fine); }), HasSubstr("find_unused_parameters"));
    DistributedDataParallel fixed(net, group, DdpOptions{.static_graph = true});
    EXPECT_THAT(error_text<UsageError>([&] { fixed.step_in_backward(fine); }), HasSubstr("static_graph"));
  });
}

/// Refuses to step on the last layer's bias, on rank 1.
class Stubborn final : public torch::optim::SGD {
 public:
  Stubborn(SmallNet& net, bool refuses)
      : SGD(net->parameters(), 0.1), refused_(refuses ? net->second->bias : at::Tensor()) {}
  at::Tensor step(LossClosure closure = nullptr) override {
    for (const at::Tensor& parameter : param_groups()[0].params()) {
      if (refused_.defined() && parameter.is_same(refused_)) throw std::runtime_error("no step on this bias");
    }
    return SGD::step(std::move(closure));
  }

 private:
  at::Tensor refused_;
};

TEST(StepInBackwardErrors, AnOptimizerThatThrowsEndsTheGroupAndKeepsItsParameters) {
  run_rank_threads(2, [](const auto& group) {
    SmallNet net = Replica::seeded();
    DistributedDataParallel ddp(net, group, kTinyBuckets);
    Stubborn optimizer(net, group->rank() == 1);
    ddp.step_in_backward(optimizer);
    const auto two_steps = [&] {
      for (int step = 0; step < 2; ++step) ddp->forward(at::ones({2, 3})).sum().backward();
    };
    if (group->rank() == 1) {
      EXPECT_THROW(two_steps(), std::runtime_error);
      EXPECT_EQ(optimizer.param_groups()[0].params().size(), 4u);
    } else {
      EXPECT_THAT(error_text<AbortedError>(two_steps), HasSubstr("no step on this bias"));
    }
  });
}

TEST(StepInBackward, IsSeenInATrace) {
  run_rank_threads(1, [](const auto& group) {
    Replica inside(group, sgd, true);
    Trace trace;
    inside.ddp.set_trace(&trace);
    inside.step(1);
    inside.ddp.set_trace(nullptr);
    EXPECT_THAT(trace.events(), Contains(Field(&TraceEvent::name, "optimizer, bucket 3")));
  });
}

}  // namespace
}  // namespace lockstep
