#include "lockstep/parallel/train/trainer.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <optional>
#include <vector>

#include <torch/nn/functional/loss.h>
#include <torch/nn/module.h>
#include <torch/types.h>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/deadline.h"
#include "lockstep/parallel/data/distributed_sampler.h"
#include "lockstep/parallel/data/loader.h"
#include "lockstep/parallel/trace/trace.h"
#include "lockstep/parallel/train/evaluate.h"

namespace lockstep::train {
namespace {

/// Sums in double, so that a mean over an epoch does not depend on how many samples came before.
struct Totals {
  double loss_sum = 0;  // of per-sample losses, this rank
  std::int64_t samples = 0;
  double seconds = 0;
  double comm_wait = 0;
};

/// One run: its state between steps.
class Run {
 public:
  Run(const Model& model, std::shared_ptr<ProcessGroup> group, torch::optim::Optimizer& optimizer,
      const data::Dataset& dataset, const FitOptions& options)
      : model_(model),
        group_(std::move(group)),
        engine_(model.module(), group_, options.ddp),
        optimizer_(optimizer),
        dataset_(dataset),
        options_(options),
        sampler_(dataset.size(), *group_, {.shuffle = true, .seed = options.seed}),
        steps_(count_steps(dataset.size(), group_->world_size(), options)) {
    LS_REQUIRE(options.trace == nullptr || options.trace_steps.first <= steps_, "trace_steps begins with step ",
               options.trace_steps.first, ": the run has ", steps_, steps_ == 1 ? " step" : " steps");
    if (options.step_in_backward) {
      optimizer_.zero_grad();
      engine_.step_in_backward(optimizer_);
    } else {
      engine_.watch(optimizer_);
    }
    for (const auto& parameters : optimizer_.param_groups()) base_rates_.push_back(parameters.options().get_lr());
  }

  FitReport run() {
    FitReport report;
    model_.module().train();
    for (std::int64_t epoch = 1; epoch <= options_.epochs && step_ < steps_; ++epoch) {
      const Totals totals = run_epoch(epoch);
      const bool last = epoch == options_.epochs || step_ == steps_;
      EpochRecord record = summarize(epoch, totals);
      if (options_.test != nullptr && (last || (options_.eval_every > 0 && epoch % options_.eval_every == 0))) {
        record.test = evaluate_replicas();
      }
      if (options_.on_epoch) options_.on_epoch(record);
      report.epochs = epoch;
      report.samples += record.samples;
      report.seconds += totals.seconds;
      report.train_loss = record.train_loss;
      report.test = record.test;
      comm_wait_ += totals.comm_wait;
    }
    if (options_.schedule) scale_rates(1);
    report.steps = step_;
    report.comm_share = mean_comm_share(report.seconds);
    return report;
  }

 private:
  /// Of rank 0's buffers on every rank, as they are saved.
  Evaluation evaluate_replicas() {
    const at::NoGradGuard no_grad;
    engine_.before_forward();
    return evaluate(model_, *options_.test, *group_);
  }

  Totals run_epoch(std::int64_t epoch) {
    Totals totals;
    sampler_.set_epoch(static_cast<std::uint64_t>(epoch - 1));
    auto begin = Clock::now();
    for (auto& batch : data::loader(dataset_, sampler_, {.batch_size = options_.batch_size})) {
      const auto loaded = Clock::now();
      const std::int64_t samples = batch.target.size(0);
      begin_trace(begin, loaded);
      const double local_loss = train_on(batch);
      StepRecord record;
      record.step = ++step_;
      record.steps = steps_;
      record.epoch = epoch;
      record.epochs = options_.epochs;
      record.samples = samples * group_->world_size();
      record.loss = options_.global_loss ? mean_over_ranks(local_loss, samples) : local_loss;
      record.data_wait_seconds = seconds(loaded - begin);
      record.comm_wait_seconds = seconds(engine_.stats().last_wait);
      const auto end = Clock::now();
      record.step_seconds = seconds(end - begin);
      end_trace(begin, end);
      begin = end;

      require_number(options_.global_loss ? record.loss : 0.0);
      totals.loss_sum += local_loss * static_cast<double>(samples);
      totals.samples += samples;
      totals.seconds += record.step_seconds;
      totals.comm_wait += record.comm_wait_seconds;
      if (options_.on_step) options_.on_step(record);
      if (step_ == steps_) break;
    }
    return totals;
  }

  /// One step; the mean loss of this rank's samples.
  double train_on(const data::Batch& batch) {
    apply_schedule();
    if (!options_.step_in_backward) {
      const Trace::Scope zero_grad(trace_, "zero_grad", "compute");
      optimizer_.zero_grad();
    }
    engine_.before_forward({batch.data});
    const at::Tensor output = model_.forward(batch.data);
    engine_.after_forward({output});
    const at::Tensor loss = torch::nn::functional::cross_entropy(output, batch.target);
    loss.backward();
    if (!options_.step_in_backward) {
      const Trace::Scope optimizer(trace_, "optimizer", "compute");
      optimizer_.step();
    }
    return loss.item<double>();
  }

  /// Records the step that has just got its data, where it is one of those that are asked for.
  void begin_trace(Clock::time_point begin, Clock::time_point loaded) {
    trace_ = options_.trace_steps.holds(step_ + 1) ? options_.trace : nullptr;
    engine_.set_trace(trace_);
    if (trace_ != nullptr) trace_->add({"data", "compute", begin, loaded});
  }

  void end_trace(Clock::time_point begin, Clock::time_point end) {
    if (trace_ != nullptr) trace_->add({base::cat("step ", step_), "step", begin, end});
    trace_ = nullptr;
  }

  void apply_schedule() {
    if (options_.schedule) scale_rates(options_.schedule(step_, steps_));
  }

  void scale_rates(double factor) {
    auto& groups = optimizer_.param_groups();
    for (std::size_t i = 0; i < groups.size(); ++i) groups[i].options().set_lr(base_rates_[i] * factor);
  }

  double mean_over_ranks(double local_loss, std::int64_t samples) {
    if (group_->world_size() == 1) return local_loss;
    double* const sums = loss_and_samples_.data_ptr<double>();
    sums[0] = local_loss * static_cast<double>(samples);
    sums[1] = static_cast<double>(samples);
    const Trace::Scope span(trace_, "loss over all ranks", "communication");
    group_->all_reduce(loss_and_samples_, ReduceOp::kSum, {.timeout = {}, .label = "loss"});
    return sums[0] / sums[1];
  }

  EpochRecord summarize(std::int64_t epoch, const Totals& totals) {
    EpochRecord record;
    record.epoch = epoch;
    record.epochs = options_.epochs;
    record.step = step_;
    record.samples = totals.samples * group_->world_size();
    record.train_loss = mean_over_ranks(totals.loss_sum / static_cast<double>(totals.samples), totals.samples);
    record.seconds = totals.seconds;
    record.comm_share = totals.seconds > 0 ? totals.comm_wait / totals.seconds : 0;
    require_number(record.train_loss);
    return record;
  }

  double mean_comm_share(double total_seconds) {
    at::Tensor share = torch::tensor({total_seconds > 0 ? comm_wait_ / total_seconds : 0.0}, torch::kFloat64);
    group_->all_reduce(share, ReduceOp::kSum, {.timeout = {}, .label = "communication share"});
    return share.item<double>() / group_->world_size();
  }

  // Called with losses that all ranks share, so that all of them stop together.
  void require_number(double loss) const {
    if (std::isfinite(loss)) return;
    throw Error(base::cat("the loss became ", std::isnan(loss) ? "nan" : "infinite", " at step ", step_, " of ", steps_,
                          ": lower the learning rate or check the data"));
  }

  const Model& model_;
  std::shared_ptr<ProcessGroup> group_;
  DataParallelEngine engine_;
  torch::optim::Optimizer& optimizer_;
  const data::Dataset& dataset_;
  const FitOptions& options_;
  DistributedSampler sampler_;
  const std::int64_t steps_;
  std::vector<double> base_rates_;
  at::Tensor loss_and_samples_ = torch::zeros({2}, torch::kFloat64);
  std::int64_t step_ = 0;
  double comm_wait_ = 0;
  Trace* trace_ = nullptr;  // of the step that runs; null where it is not recorded
};

}  // namespace

FitReport fit(const Model& model, std::shared_ptr<ProcessGroup> group, torch::optim::Optimizer& optimizer,
              const data::Dataset& dataset, const FitOptions& options) {
  LS_REQUIRE(options.batch_size > 0, "batch size 0: expected at least 1");
  LS_REQUIRE(options.epochs > 0, "epochs ", options.epochs, ": expected at least 1");
  LS_REQUIRE(dataset.size() > 0, "the training data set has no samples");
  LS_REQUIRE(options.trace_steps.first > 0 && options.trace_steps.count > 0, "trace_steps ", options.trace_steps.first,
             ":", options.trace_steps.count, ": expected a first step and a count of at least 1");
  return Run(model, std::move(group), optimizer, dataset, options).run();
}

std::int64_t count_steps(std::size_t samples, int world_size, const FitOptions& options) {
  const auto divide_up = [](std::size_t a, std::size_t b) { return (a + b - 1) / b; };
  const std::size_t of_rank = divide_up(samples, static_cast<std::size_t>(world_size));
  const auto steps = options.epochs * static_cast<std::int64_t>(divide_up(of_rank, options.batch_size));
  return options.max_steps > 0 ? std::min(steps, options.max_steps) : steps;
}

double cosine_schedule(std::int64_t step, std::int64_t steps) {
  return 0.5 * (1.0 + std::cos(std::numbers::pi * static_cast<double>(step) / static_cast<double>(steps)));
}

}  // namespace lockstep::train
