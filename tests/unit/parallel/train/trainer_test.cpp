#include "lockstep/parallel/train/trainer.h"

#include <mutex>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/base/error.h"
#include "lockstep/parallel/trace/trace.h"
#include "tests/unit/parallel/train/train_test_support.h"

namespace lockstep::train {
namespace {

struct Outcome {
  std::vector<double> losses;
  std::vector<std::int64_t> evaluated_epochs;
  at::Tensor weight;
  FitReport report;
};

/// Rank 0's view of a run on `world_size` ranks of `batch_size` samples each.
Outcome fit_on(int world_size, std::size_t batch_size, FitOptions options, double lr = 0.1) {
  const Blobs dataset(60);
  const Blobs test(31);
  Outcome outcome;
  run_ranks(world_size, [&](std::shared_ptr<ProcessGroup> group) {
    const auto linear = make_linear(4, 3);
    const Model model(linear);
    torch::optim::SGD optimizer(linear->parameters(), torch::optim::SGDOptions(lr).momentum(0.9));
    FitOptions mine = options;
    mine.batch_size = batch_size;
    mine.test = &test;
    const bool observes = group->rank() == 0;
    if (observes) {
      mine.on_step = [&](const StepRecord& record) { outcome.losses.push_back(record.loss); };
      mine.on_epoch = [&](const EpochRecord& record) {
        if (record.test) outcome.evaluated_epochs.push_back(record.epoch);
      };
    }
    const FitReport report = fit(model, group, optimizer, dataset, mine);
    if (observes) {
      outcome.report = report;
      outcome.weight = linear->weight.detach().clone();
    }
  });
  return outcome;
}

TEST(Fit, RanksTakeTheStepsOfOneRankWithTheWholeBatch) {
  const FitOptions options{.epochs = 3, .seed = 5};
  const Outcome control = fit_on(1, 8, options);
  ASSERT_EQ(control.losses.size(), 24u);
  EXPECT_LT(control.losses.back(), control.losses.front());
  for (const int world_size : {2, 4}) {
    const Outcome outcome = fit_on(world_size, 8 / static_cast<std::size_t>(world_size), options);
    ASSERT_EQ(outcome.losses.size(), control.losses.size());
    for (std::size_t i = 0; i < control.losses.size(); ++i) EXPECT_NEAR(outcome.losses[i], control.losses[i], 1e-6);
    EXPECT_EQ(outcome.report.samples, 180);
    EXPECT_EQ(outcome.report.test->total, 31);
  }
}

TEST(Fit, StepsInBackwardToTheSameBits) {
  FitOptions options{.epochs = 3, .seed = 5, .schedule = cosine_schedule};
  const Outcome behind = fit_on(2, 7, options);
  options.step_in_backward = true;
  const Outcome inside = fit_on(2, 7, options);
  EXPECT_EQ(inside.losses, behind.losses);
  EXPECT_TRUE(torch::equal(inside.weight, behind.weight));
}

TEST(Fit, TwoRunsAreBitIdentical) {
  const FitOptions options{.epochs = 2, .seed = 1};
  const Outcome first = fit_on(2, 7, options);
  const Outcome second = fit_on(2, 7, options);
  EXPECT_EQ(first.losses, second.losses);
  EXPECT_TRUE(torch::equal(first.weight, second.weight));
}

TEST(Fit, MaxStepsEndsWithinAnEpochAndEvaluates) {
  const Outcome outcome = fit_on(1, 8, {.epochs = 9, .max_steps = 11, .eval_every = 0});
  EXPECT_EQ(outcome.report.steps, 11);
  EXPECT_EQ(outcome.report.epochs, 2);
  EXPECT_THAT(outcome.evaluated_epochs, ::testing::ElementsAre(2));
}

TEST(Fit, EvaluatesEveryFewEpochsAndAtTheEnd) {
  EXPECT_THAT(fit_on(1, 30, {.epochs = 5, .eval_every = 2}).evaluated_epochs, ::testing::ElementsAre(2, 4, 5));
}

TEST(Fit, ScheduleScalesTheLearningRate) {
  const Outcome frozen = fit_on(1, 8, {.epochs = 1, .schedule = [](std::int64_t, std::int64_t) { return 0.0; }});
  EXPECT_TRUE(torch::equal(frozen.weight, make_linear(4, 3)->weight.detach()));
  EXPECT_DOUBLE_EQ(cosine_schedule(0, 10), 1);
  EXPECT_DOUBLE_EQ(cosine_schedule(5, 10), 0.5);
  EXPECT_NEAR(cosine_schedule(10, 10), 0, 1e-15);
}

TEST(Fit, PutsTheLearningRateBackAtTheEnd) {
  const Blobs dataset(60);
  run_ranks(1, [&](std::shared_ptr<ProcessGroup> group) {
    const auto linear = make_linear(4, 3);
    torch::optim::SGD optimizer(linear->parameters(), torch::optim::SGDOptions(0.1));
    FitOptions options{.epochs = 1};
    options.schedule = cosine_schedule;
    fit(Model(linear), group, optimizer, dataset, options);
    EXPECT_EQ(optimizer.param_groups()[0].options().get_lr(), 0.1);
  });
}

TEST(Fit, ALossThatIsNoNumberNamesTheStep) {
  try {
    fit_on(2, 8, {.epochs = 50}, 3e38);
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("learning rate"));
    EXPECT_THAT(error.what(), ::testing::HasSubstr("at step "));
  }
}

TEST(Fit, RejectsWhatMakesNoSense) {
  EXPECT_THROW(fit_on(1, 0, {}), UsageError);
  EXPECT_THROW(fit_on(1, 8, {.epochs = 0}), UsageError);
}

TEST(Fit, RecordsTheStepsThatAreAskedFor) {
  const Blobs dataset(60);
  std::vector<std::vector<std::string>> names(3);
  run_ranks(3, [&](std::shared_ptr<ProcessGroup> group) {
    const auto linear = make_linear(4, 3);
    torch::optim::SGD optimizer(linear->parameters(), torch::optim::SGDOptions(0.1));
    Trace trace;
    FitOptions options{.epochs = 2, .batch_size = 5};  // 4 steps an epoch
    options.trace = &trace;
    options.trace_steps = {.first = 4, .count = 2};
    fit(Model(linear), group, optimizer, dataset, options);
    for (const TraceEvent& event : trace.events()) {
      const std::string category = event.category;
      if (category == "step" || category == "compute") {
        names[static_cast<std::size_t>(group->rank())].push_back(event.name);
      }
    }
  });
  for (const auto& of_rank : names) {
    EXPECT_THAT(of_rank, ::testing::ElementsAre("data", "zero_grad", "forward", "backward", "optimizer", "step 4",
                                                "data", "zero_grad", "forward", "backward", "optimizer", "step 5"));
  }
}

TEST(Fit, ATraceMustBeginWithinTheRun) {
  const auto fit_with = [](StepRange steps) {
    Trace trace;
    FitOptions options{.epochs = 1, .max_steps = 3};
    options.trace = &trace;
    options.trace_steps = steps;
    fit_on(1, 8, options);
  };
  fit_with({.first = 3, .count = 9});
  EXPECT_THROW(fit_with({.first = 4, .count = 1}), UsageError);
  EXPECT_THROW(fit_with({.first = 0, .count = 1}), UsageError);
  EXPECT_THROW(fit_with({.first = 1, .count = 0}), UsageError);
}

TEST(Fit, CountsItsSteps) {
  const auto steps = [](std::size_t samples, int world_size, std::size_t batch, std::int64_t max_steps) {
    return count_steps(samples, world_size, {.epochs = 2, .batch_size = batch, .max_steps = max_steps});
  };
  EXPECT_EQ(steps(60, 1, 8, 0), 16);
  EXPECT_EQ(steps(60, 3, 5, 0), 8);
  EXPECT_EQ(steps(61, 3, 5, 0), 10);  // 21 samples of each rank
  EXPECT_EQ(steps(1, 3, 5, 0), 2);
  EXPECT_EQ(steps(60, 1, 8, 5), 5);
  EXPECT_EQ(steps(60, 1, 8, 50), 16);
}

}  // namespace
}  // namespace lockstep::train
