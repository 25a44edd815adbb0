#include "lockstep/parallel/ddp/comm_hook.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/base/error.h"
#include "lockstep/parallel/ddp/distributed_data_parallel.h"
#include "tests/unit/parallel/ddp/models.h"
#include "tests/unit/parallel/group/rank_threads.h"

namespace lockstep {
namespace {

using test::all_equal;
using test::error_text;
using test::run_rank_threads;
using test::WeightedSum;
using test::WeightedSumImpl;
using ::testing::HasSubstr;

using Specs = std::vector<WeightedSumImpl::Spec>;

const DdpOptions kSmallBuckets{.bucket_cap_bytes = 100, .first_bucket_bytes = 1};

class HookWorlds : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Worlds, HookWorlds, ::testing::Values(1, 2, 3, 4));

TEST_P(HookWorlds, CompressedGradientsThatFitAreExact) {
  run_rank_threads(GetParam(), [](const auto& group) {
    const int n = group->world_size();
    for (const auto& hook : {fp16_compress_hook(), bf16_compress_hook()}) {
      WeightedSum model(Specs{{{33}}, {{3, 5}, at::kDouble}, {{0}}, {{7}, at::kHalf}, {{64}}});
      DistributedDataParallel ddp(model, group, kSmallBuckets);
      ddp->register_comm_hook(hook);
      for (int step = 1; step <= 3; ++step) {
        model->zero_grad();
        ddp->forward(n * (group->rank() + 1.0)).backward();
        for (std::size_t i = 0; i < model->weights.size(); ++i) {
          EXPECT_TRUE(all_equal(model->weights[i].grad(), (static_cast<double>(i) + 1) * (n * (n + 1) / 2)));
        }
      }
    }
  });
}

TEST(CommHook, CompressionRoundsOnceOnEachSide) {
  run_rank_threads(2, [](const auto& group) {
    WeightedSum model(Specs{{{8}}});
    DistributedDataParallel ddp(model, group);
    ddp->register_comm_hook(bf16_compress_hook());
    const double mine = group->rank() == 0 ? 1.0 / 3 : 0.7;
    ddp->forward(mine).backward();
    const auto narrow = [](double value) { return at::full({}, value, at::kFloat).to(at::kBFloat16).to(at::kFloat); };
    const at::Tensor sum = narrow(static_cast<float>(1.0 / 3) * 0.5) + narrow(static_cast<float>(0.7) * 0.5);
    EXPECT_TRUE(all_equal(model->weights[0].grad(), sum.to(at::kBFloat16).item<double>()));
    EXPECT_FALSE(all_equal(model->weights[0].grad(), (1.0 / 3 + 0.7) / 2));
  });
}

/// Sums what others and this rank have, signs only.
class SignHook final : public CommHook {
 public:
  std::string name() const override { return "sign"; }
  Work start(ProcessGroup& group, const GradientBucket& bucket) override {
    at::Tensor buffer = bucket.buffer;
    buffer.sign_();
    last = last || bucket.is_last;
    for (const auto& gradient : bucket.gradients) seen += gradient.numel();
    return group.all_reduce_async(buffer, premul_sum(bucket.factor));
  }
  std::int64_t seen = 0;
  bool last = false;
};

TEST(CommHook, OfTheProgramItself) {
  run_rank_threads(3, [](const auto& group) {
    WeightedSum model(Specs{{{5}}, {{6}}});
    DistributedDataParallel ddp(model, group, kSmallBuckets);
    const auto hook = std::make_shared<SignHook>();
    ddp->register_comm_hook(hook);
    ddp->forward(group->rank() == 0 ? -7 : 100).backward();
    for (const auto& weight : model->weights) {
      EXPECT_FLOAT_EQ(weight.grad().max().template item<float>(), 1.0f / 3);
      EXPECT_TRUE(at::equal(weight.grad(), weight.grad()[0].expand_as(weight)));
    }
    EXPECT_EQ(hook->seen, 11);
    EXPECT_TRUE(hook->last);
  });
}

TEST(CommHook, IsOneAndTheSameOnAllRanksBeforeTheFirstBackward) {
  run_rank_threads(2, [](const auto& group) {
    WeightedSum model(Specs{{{5}}});
    DistributedDataParallel ddp(model, group);
    const auto other = [&] {
      ddp->register_comm_hook(group->rank() == 0 ? fp16_compress_hook() : bf16_compress_hook());
    };
    EXPECT_THAT(error_text<MismatchError>(other),
                HasSubstr("communication hook is fp16_compress on rank 0 but bf16_compress on rank 1"));
    EXPECT_THAT(error_text<UsageError>([&] { ddp->register_comm_hook(nullptr); }), HasSubstr("null"));
    ddp->register_comm_hook(bf16_compress_hook());
    const auto again = [&] { ddp->register_comm_hook(bf16_compress_hook()); };
    EXPECT_THAT(error_text<UsageError>(again), HasSubstr("there is bf16_compress after 0 steps"));
  });
}

TEST(CommHook, ItsExceptionEndsTheGroup) {
  struct Failing final : CommHook {
    explicit Failing(bool fails) : fails_(fails) {}
    std::string name() const override { return "failing"; }
    Work start(ProcessGroup& group, const GradientBucket& bucket) override {
      if (fails_) throw std::runtime_error("no memory for codes");
      at::Tensor buffer = bucket.buffer;
      return group.all_reduce_async(buffer, premul_sum(bucket.factor));
    }
    bool fails_;
  };
  run_rank_threads(2, [](const auto& group) {
    WeightedSum model(Specs{{{5}}});
    DistributedDataParallel ddp(model, group);
    ddp->register_comm_hook(std::make_shared<Failing>(group->rank() == 1));
    const auto step = [&] { ddp->forward(1).backward(); };
    if (group->rank() == 1) {
      EXPECT_THAT(error_text<std::runtime_error>(step), HasSubstr("no memory for codes"));
    } else {
      EXPECT_THAT(error_text<AbortedError>(step), HasSubstr("no memory for codes"));
    }
  });
}

/// Averages through the group, as the sentinel can see.
struct AveragingHook final : CommHook {
  std::string name() const override { return "averaging"; }
  Work start(ProcessGroup& group, const GradientBucket& bucket) override {
    at::Tensor buffer = bucket.buffer;
    return group.all_reduce_async(buffer, premul_sum(bucket.factor));
  }
};

TEST(CommHook, ThatReducesThroughTheGroupReducesOnce) {
  run_rank_threads(2, [](const auto& group) {
    WeightedSum model(Specs{{{5}}});
    DistributedDataParallel ddp(model, group);
    ddp->register_comm_hook(std::make_shared<AveragingHook>());
    ddp->forward(1).backward();
    const at::Tensor first = ddp->forward(2);
    const at::Tensor second = ddp->forward(3);
    first.backward();
    second.backward();
    ddp->join([&] {
      for (int i = 0; i < 2; ++i) ddp->forward(4).backward();
    });
    EXPECT_TRUE(ddp->findings().empty());
  });
}

TEST_P(HookWorlds, GradientsAreWeighedBySamples) {
  run_rank_threads(GetParam(), [](const auto& group) {
    const int n = group->world_size();
    const bool hooked = n % 2 == 0;
    WeightedSum model(Specs{{{5}, at::kDouble}, {{6}, at::kDouble}});
    DistributedDataParallel ddp(model, group);
    if (hooked) ddp->register_comm_hook(std::make_shared<SignHook>());
    for (int step = 0; step < 2; ++step) {
      model->zero_grad();
      // Rank r has r samples (rank 0 of a world of one: 1), whose mean gradient is r + 1.
      const int samples = n == 1 ? 1 : group->rank();
      const at::Tensor loss = ddp->forward(group->rank() + 1);
      ddp->average_over_samples(samples);
      loss.backward();
      double sum = 0;
      double total = 0;
      for (int r = 0; r < n; ++r) {
        const int its = n == 1 ? 1 : r;
        sum += its * (hooked ? 1 : r + 1);
        total += its;
      }
      EXPECT_NEAR(model->weights[0].grad().max().template item<double>(), sum / total, 1e-12);
    }
    model->zero_grad();
    if (hooked) return;
    ddp->forward(n * (group->rank() + 1)).backward();  // Of that step alone.
    EXPECT_TRUE(all_equal(model->weights[0].grad(), n * (n + 1) / 2));
  });
}

TEST(AverageOverSamples, NeedsOne) {
  run_rank_threads(2, [](const auto& group) {
    WeightedSum model(Specs{{{5}}});
    DistributedDataParallel ddp(model, group);
    EXPECT_THAT(error_text<UsageError>([&] { ddp->average_over_samples(0); }), HasSubstr("no rank has a sample"));
    EXPECT_THAT(error_text<UsageError>([&] { ddp->average_over_samples(-1); }), HasSubstr("-1 samples"));
  });
}

}  // namespace
}  // namespace lockstep
