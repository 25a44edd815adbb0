// Honest training of many kinds raises nothing.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/parallel/data/distributed_sampler.h"
#include "tests/unit/parallel/sentinel/training.h"

namespace lockstep {
namespace {

using test::run_rank_threads;
using test::texts_of;
using test::Training;
using Group = std::shared_ptr<ProcessGroup>;

#ifdef __SANITIZE_ADDRESS__
constexpr int kShare = 10;  // One in so many of the steps: each is that much slower.
#else
constexpr int kShare = 1;
#endif

struct Data {
  std::size_t samples;
  std::int64_t batch;
  int steps;
};

/// Epoch after epoch with a DistributedSampler, momentum, and a learning rate that falls on all ranks alike.
void train(const Group& group, const Data& data) {
  const at::Tensor samples = at::sin(at::arange(static_cast<std::int64_t>(data.samples) * 3, at::kFloat)).view({-1, 3});
  Training training(group, {.checksum_every = 25});
  static_cast<torch::optim::SGDOptions&>(training.optimizer_.param_groups()[0].options()).momentum(0.5);
  training.sentinel_.watch(training.optimizer_);
  DistributedSampler sampler(data.samples, *group);
  int step = 0;
  for (std::uint64_t epoch = 0; step < data.steps / kShare; ++epoch) {
    sampler.set_epoch(epoch);
    const at::Tensor order = at::tensor(sampler.indices(), at::kLong);
    for (std::int64_t at = 0; at < order.size(0); at += data.batch, ++step) {
      training.step(samples.index_select(0, order.slice(0, at, std::min(at + data.batch, order.size(0)))));
    }
    training.optimizer_.param_groups()[0].options().set_lr(0.1 / static_cast<double>(epoch + 1));
  }
  EXPECT_TRUE(training.findings().empty()) << texts_of(training.findings());
}

/// As few operations a step as can be, so that there can be many steps: y = x w without autograd.
TEST(SentinelHonest, TenThousandStepsOverManyEpochsOfSmallData) {
  run_rank_threads(2, [](const Group& group) {
    const at::NoGradGuard no_grad;
    const at::Tensor samples = at::sin(at::arange(303, at::kFloat)).view({101, 3});
    at::Tensor weight = at::ones({3, 2}).requires_grad_();
    weight.mutable_grad() = at::zeros({3, 2});
    at::Tensor gradient = weight.grad();
    Sentinel sentinel(group, {{"weight", weight}});
    DistributedSampler sampler(101, *group);
    int step = 0;
    for (std::uint64_t epoch = 0; step < 10'000 / kShare; ++epoch) {
      sampler.set_epoch(epoch);
      const at::Tensor order = at::tensor(sampler.indices(), at::kLong);
      for (std::int64_t at = 0; at < order.size(0); at += 8, ++step) {
        const at::Tensor x = samples.index_select(0, order.slice(0, at, std::min(at + 8, order.size(0))));
        sentinel.before_forward({x});
        at::mm_out(gradient, x.t(), x.mm(weight));
        if (sentinel.wants_gradients()) sentinel.sample_before(gradient, "weight");
        Training::mean(*group, gradient);
        if (sentinel.wants_gradients()) sentinel.sample_after(gradient);
        sentinel.after_backward(true);
        weight.sub_(gradient, 1e-4);
      }
    }
    EXPECT_TRUE(sentinel.findings().empty()) << texts_of(sentinel.findings());
  });
}

TEST(SentinelHonest, WhateverTheWorldTheDataAndTheBatch) {
  for (const int world_size : {1, 2, 3}) {
    // Fewer samples than ranks, ragged last batches, repeated samples, epochs longer than the sketch and the schedule.
    for (const Data& data :
         {Data{2, 1, 50}, Data{7, 2, 200}, Data{64, 16, 200}, Data{500, 9, 200}, Data{3000, 8, 600}}) {
      SCOPED_TRACE(testing::Message() << "world " << world_size << ", " << data.samples << " samples, batch "
                                      << data.batch);
      run_rank_threads(world_size, [&](const Group& group) { train(group, data); });
    }
  }
}

TEST(SentinelHonest, RandomDataOfEachRank) {
  run_rank_threads(2, [](const Group& group) {
    Training training(group);
    auto generator = at::detail::createCPUGenerator(static_cast<std::uint64_t>(group->rank()));
    for (int step = 0; step < 500 / kShare; ++step) {
      // Tokens of few values: rows come again and again, on all ranks.
      training.step(at::randint(0, 5, {4, 3}, generator, at::kFloat));
    }
    EXPECT_TRUE(training.findings().empty()) << texts_of(training.findings());
  });
}

}  // namespace
}  // namespace lockstep
