#include "lockstep/parallel/sentinel/sentinel.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/parallel/sentinel/training.h"

namespace lockstep {
namespace {

using test::kinds_of;
using test::only;
using test::run_rank_threads;
using test::texts_of;
using test::Training;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using Group = std::shared_ptr<ProcessGroup>;

// ---- replicas ----

TEST(Sentinel, FindsDifferentInitialWeights) {
  run_rank_threads(3, [](const Group& group) {
    Training training(group, {}, group->rank() == 1 ? 2 : 1);
    for (int i = 0; i < 3; ++i) training.step(training.fresh_batch());
    const Finding found = only(training, FindingKind::kParametersDiffer);
    EXPECT_EQ(found.step, 1);
    EXPECT_EQ(found.tensor, "fc1.weight");
    EXPECT_THAT(found.ranks, ElementsAre(1));
    EXPECT_THAT(found.text, HasSubstr("group test, step 1: parameter 'fc1.weight' on rank 1"));
    EXPECT_THAT(found.text, HasSubstr("(4 of 4 tensors differ)"));
    EXPECT_THAT(found.text, HasSubstr("started from different weights"));
  });
}

TEST(Sentinel, FindsOneBitThatDiffers) {
  run_rank_threads(3, [](const Group& group) {
    Training training(group, {.checksum_every = 10});
    for (int i = 0; i < 13; ++i) training.step(training.fresh_batch());
    EXPECT_THAT(training.findings(), IsEmpty()) << texts_of(training.findings());
    if (group->rank() == 2) {
      static_cast<std::uint8_t*>(training.net_->fc2->bias.data_ptr())[1] ^= 1;
    }
    for (int i = 0; i < 8; ++i) training.step(training.fresh_batch());
    const Finding found = only(training, FindingKind::kParametersDiffer);
    EXPECT_EQ(found.step, 20);
    EXPECT_THAT(found.ranks, ElementsAre(2));
    EXPECT_THAT(found.text, HasSubstr("all were equal at step 10"));
    EXPECT_THAT(found.text, HasSubstr("changes weights on some ranks only"));
  });
}

TEST(Sentinel, NamesTheTensorThatDiffers) {
  run_rank_threads(2, [](const Group& group) {
    Training training(group);
    training.optimizer_.param_groups()[0].options().set_lr(0);  // What differs stays where it is.
    if (group->rank() == 1) static_cast<std::uint8_t*>(training.net_->fc1->bias.data_ptr())[5] ^= 64;
    training.step(training.fresh_batch());
    const Finding found = only(training, FindingKind::kParametersDiffer);
    EXPECT_EQ(found.tensor, "fc1.bias");
    EXPECT_THAT(found.text, Not(HasSubstr("tensors differ")));
  });
}

// ---- gradients ----

TEST(Sentinel, FindsThatNobodyAverages) {
  run_rank_threads(2, [](const Group& group) {
    Training training(group);
    for (int i = 0; i < 3; ++i) training.step_alone(training.fresh_batch());
    const Finding found = only(training, FindingKind::kGradientsNotAveraged);
    EXPECT_EQ(found.step, 0);
    EXPECT_EQ(found.tensor, "fc1.weight");
    EXPECT_THAT(found.ranks, ElementsAre(group->rank()));
    EXPECT_THAT(found.text,
                HasSubstr("'fc1.weight' was stepped on after a backward whose gradients were not averaged"));
    EXPECT_THAT(found.text, HasSubstr("end no_sync() before it"));
  });
}

TEST(Sentinel, FindsAStepInsideNoSyncAndBlamesItForWhatDiffers) {
  run_rank_threads(2, [](const Group& group) {
    Training training(group);
    training.step(training.fresh_batch());
    training.step_alone(training.fresh_batch());
    training.step(training.fresh_batch());
    ASSERT_THAT(kinds_of(training.findings()),
                ElementsAre(FindingKind::kGradientsNotAveraged, FindingKind::kParametersDiffer));
    EXPECT_EQ(training.findings()[1].step, 2);
    EXPECT_THAT(training.findings()[1].text, HasSubstr("the optimizer of ranks 0 and 1 stepped on gradients"));
  });
}

TEST(Sentinel, AccumulationThatAveragesItsLastBackwardIsFine) {
  run_rank_threads(2, [](const Group& group) {
    Training training(group);
    for (int i = 0; i < 20; ++i) {
      training.optimizer_.zero_grad();
      for (int part = 0; part < 2; ++part) {
        training.compute(training.fresh_batch());
        training.sentinel_.after_backward(false);
      }
      training.compute(training.fresh_batch());
      training.average_gradients();
      training.optimizer_.step();
    }
    EXPECT_THAT(training.findings(), IsEmpty()) << texts_of(training.findings());
  });
}

TEST(Sentinel, FindsSummedGradients) {
  run_rank_threads(3, [](const Group& group) {
    Training training(group);
    training.average_ = [](ProcessGroup& g, at::Tensor& bucket) { Training::reduce(g, bucket, ReduceOp::kSum); };
    for (int i = 0; i < 3; ++i) training.step(training.fresh_batch());
    const Finding found = only(training, FindingKind::kGradientsSummed);
    EXPECT_EQ(found.step, 1);
    EXPECT_EQ(found.tensor, "fc1.weight");
    EXPECT_THAT(found.text, HasSubstr("summed over the ranks, not averaged: 3 times their mean"));
    EXPECT_THAT(found.text, HasSubstr("hook that does not divide"));
  });
}

TEST(Sentinel, FindsAnAverageThatIsNone) {
  run_rank_threads(3, [](const Group& group) {
    Training training(group);
    training.average_ = [](ProcessGroup&, at::Tensor&) {};
    for (int i = 0; i < 3; ++i) training.step(training.fresh_batch());
    ASSERT_THAT(kinds_of(training.findings()),
                ElementsAre(FindingKind::kGradientsNotAveraged, FindingKind::kParametersDiffer));
    EXPECT_THAT(training.findings()[0].text,
                HasSubstr("on ranks 0, 1 and 2 are after averaging what they were before"));
    EXPECT_THAT(training.findings()[1].text, HasSubstr("gradients are not averaged over all ranks"));
  });
}

TEST(Sentinel, HalfPrecisionOnTheWireIsFine) {
  run_rank_threads(3, [](const Group& group) {
    Training training(group);
    training.average_ = [](ProcessGroup& g, at::Tensor& bucket) {
      at::Tensor half = bucket.to(at::kBFloat16);
      g.all_reduce(half, ReduceOp::kAvg);
      bucket.copy_(half);
    };
    for (int i = 0; i < 70; ++i) training.step(training.fresh_batch());
    EXPECT_THAT(training.findings(), IsEmpty()) << texts_of(training.findings());
  });
}

// ---- reductions of the program's own ----

TEST(Sentinel, FindsGradientsThatAreReducedTwice) {
  run_rank_threads(2, [](const Group& group) {
    Training training(group);
    for (int i = 0; i < 3; ++i) {
      training.optimizer_.zero_grad();
      training.compute(training.fresh_batch());
      training.average_gradients();
      at::Tensor gradient = training.net_->fc2->weight.grad();
      group->all_reduce(gradient);
      training.optimizer_.step();
    }
    const Finding found = only(training, FindingKind::kGradientsReducedTwice);
    EXPECT_EQ(found.tensor, "fc2.weight");
    EXPECT_THAT(found.text, HasSubstr("reduces the gradient of 'fc2.weight', which is averaged"));
  });
}

TEST(Sentinel, FindsParametersThatAreSummedInsteadOfGradients) {
  run_rank_threads(2, [](const Group& group) {
    Training training(group);
    const at::NoGradGuard no_grad;
    for (int i = 0; i < 2; ++i) {
      {
        const at::AutoGradMode grad(true);
        training.step(training.fresh_batch());
      }
      for (at::Tensor& parameter : training.net_->parameters()) group->all_reduce(parameter);
    }
    const Finding found = only(training, FindingKind::kParametersReduced);
    EXPECT_EQ(found.tensor, "fc1.weight");
    EXPECT_THAT(found.text, HasSubstr("reduces parameter 'fc1.weight' over these ranks"));
  });
}

TEST(Sentinel, AProgramThatAveragesByItselfIsFine) {
  run_rank_threads(2, [](const Group& group) {
    Training training(group);
    const auto average = [&](at::Tensor tensor) {
      const at::NoGradGuard no_grad;
      group->all_reduce(tensor, ReduceOp::kAvg);
    };
    for (int i = 0; i < 4; ++i) {  // Gradients, inside no_sync().
      training.optimizer_.zero_grad();
      training.compute(training.fresh_batch());
      training.sentinel_.after_backward(false);
      for (const at::Tensor& parameter : training.net_->parameters()) average(parameter.grad());
      training.optimizer_.step();
    }
    for (int i = 0; i < 4; ++i) {  // Parameters, after steps of the ranks' own.
      training.step_alone(training.fresh_batch());
      for (const at::Tensor& parameter : training.net_->parameters()) average(parameter);
    }
    training.step(training.fresh_batch());
    EXPECT_THAT(training.findings(), IsEmpty()) << texts_of(training.findings());
  });
}

TEST(Sentinel, AProgramThatAveragesAFlatCopyIsFine) {
  run_rank_threads(2, [](const Group& group) {
    Training training(group);
    training.average_ = [](ProcessGroup& peers, at::Tensor& bucket) { peers.all_reduce(bucket, ReduceOp::kAvg); };
    for (int i = 0; i < 4; ++i) {
      training.optimizer_.zero_grad();
      training.compute(training.fresh_batch());
      training.sentinel_.after_backward(false);
      std::vector<at::Tensor> flat;
      for (const at::Tensor& parameter : training.net_->parameters()) flat.push_back(parameter.grad().flatten());
      at::Tensor bucket = at::cat(flat);
      group->all_reduce(bucket, ReduceOp::kAvg);
      std::int64_t offset = 0;
      for (const at::Tensor& parameter : training.net_->parameters()) {
        parameter.grad().copy_(bucket.slice(0, offset, offset + parameter.numel()).view_as(parameter));
        offset += parameter.numel();
      }
      training.optimizer_.step();
    }
    training.step(training.fresh_batch());
    EXPECT_THAT(training.findings(), IsEmpty()) << texts_of(training.findings());
  });
}

TEST(Sentinel, ReductionsAmongOtherRanksAndBroadcastsAreFine) {
  run_rank_threads(3, [](const Group& group) {
    Training training(group);
    const Group pair = group->rank() < 2 ? group->new_group({0, 1}) : nullptr;
    for (int i = 0; i < 3; ++i) {
      training.step(training.fresh_batch());
      const at::NoGradGuard no_grad;
      at::Tensor weight = training.net_->fc1->weight;
      at::Tensor gradient = weight.grad();
      if (pair) pair->all_reduce(gradient, ReduceOp::kMax);
      group->broadcast(weight, 0);
    }
    EXPECT_THAT(training.findings(), IsEmpty()) << texts_of(training.findings());
  });
}

}  // namespace
}  // namespace lockstep
