#include "apps/lockstep-train/job.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <optional>
#include <utility>

#include <nlohmann/json.hpp>
#include <torch/torch.h>

#include "apps/lockstep-train/models.h"
#include "lockstep/core/base/check.h"
#include "lockstep/parallel/trace/trace.h"
#include "lockstep/parallel/train/metrics.h"
#include "lockstep/parallel/train/progress.h"
#include "lockstep/parallel/train/trainer.h"
#include "lockstep/parallel/train/weights.h"

namespace lockstep::app {
namespace {

using Json = nlohmann::ordered_json;

std::unique_ptr<data::Dataset> open_data(const Options& options, const std::string& split) {
  if (options.dataset == "cifar10") return std::make_unique<data::Cifar10Images>(options.data, split);
  return std::make_unique<data::IdxImages>(options.data, split);
}

std::string format_shape(const std::vector<std::int64_t>& shape) {
  std::string text;
  for (const auto size : shape) text += (text.empty() ? "" : "x") + std::to_string(size);
  return text;
}

std::string describe_run(const Options& options, const Inputs& inputs, int world_size) {
  return base::cat(options.model, " (", train::format_count(static_cast<double>(inputs.parameters)), " parameters) on ",
                   options.data, ": ", inputs.train->size(), " training and ", inputs.test->size(), " test samples of ",
                   format_shape(inputs.train->sample_shape()), "; ", world_size,
                   world_size == 1 ? " worker" : " workers", ", each ", options.batch_size, " samples a step on ",
                   at::get_num_threads(), at::get_num_threads() == 1 ? " thread" : " threads");
}

Json run_line(const Options& options, const Inputs& inputs, int world_size) {
  return {{"event", "run"},
          {"model", options.model},
          {"data", options.data},
          {"world_size", world_size},
          {"batch_size", options.batch_size},
          {"epochs", options.epochs},
          {"lr", options.lr},
          {"lr_schedule", options.lr_schedule},
          {"momentum", options.momentum},
          {"seed", options.seed},
          {"threads", at::get_num_threads()},
          {"parameters", inputs.parameters}};
}

Json summary_line(const Options& options, const Inputs& inputs, int world_size, const train::FitReport& report) {
  return {{"event", "summary"},
          {"model", options.model},
          {"data", options.data},
          {"world_size", world_size},
          {"batch_size", options.batch_size},
          {"epochs", report.epochs},
          {"steps", report.steps},
          {"parameters", inputs.parameters},
          {"train_loss", report.train_loss},
          {"test_loss", report.test->mean_loss},
          {"test_accuracy", report.test->accuracy()},
          {"test_correct", report.test->correct},
          {"test_total", report.test->total},
          {"samples_per_s", report.samples_per_second()},
          {"comm_share", report.comm_share},
          {"seconds", report.seconds},
          {"weights", options.output.empty() ? Json() : Json(options.output)},
          {"max_loss_difference", nullptr}};
}

void print_results(const Options& options, const train::FitReport& report, const Json& summary) {
  if (!options.json) {
    std::printf("test accuracy %.2f %% (%lld of %lld) after %lld steps in %.1f s\n", report.test->accuracy() * 100,
                static_cast<long long>(report.test->correct), static_cast<long long>(report.test->total),
                static_cast<long long>(report.steps), report.seconds);
    std::printf("%s samples/s, %.1f %% of the step waits for communication\n",
                train::format_count(report.samples_per_second()).c_str(), report.comm_share * 100);
    if (!options.output.empty()) std::printf("weights: %s\n", options.output.c_str());
    if (!options.trace.empty()) std::printf("trace: %s\n", options.trace.c_str());
  }
  std::printf("%s\n", summary.dump().c_str());
  if (std::fflush(stdout) != 0) throw SystemError("cannot write the results to stdout", errno);
}

/// Where rank 0 tells of the run: a file of metrics and a line for people, each if wanted.
struct Observers {
  std::optional<train::MetricsWriter> metrics;
  std::optional<train::Progress> progress;

  Observers(const Options& options, int rank) {
    if (rank != 0) return;
    if (!options.metrics.empty()) metrics.emplace(options.metrics);
    if (!options.no_progress) progress.emplace(train::detect_progress_options(STDERR_FILENO));
  }
  void step(const train::StepRecord& record) {
    if (metrics) metrics->step(record);
    if (progress) progress->step(record);
  }
  void epoch(const train::EpochRecord& record) {
    if (metrics) metrics->epoch(record);
    if (progress) progress->epoch(record);
  }
};

/// --trace: what each rank records, and when the file is written: as soon as its last step is over, so that clocks have
/// no time to drift, and a run that fails later leaves it.
class Tracing {
 public:
  Tracing(const Options& options, std::shared_ptr<ProcessGroup> group)
      : group_(std::move(group)), file_(options.trace), steps_(trace_steps(options)) {}

  void observe(train::FitOptions& fit) {
    if (file_.empty()) return;
    fit.trace = &trace_;
    fit.trace_steps = steps_;
  }
  /// Collective.
  void step(const train::StepRecord& record) {
    if (file_.empty() || !steps_.holds(record.step)) return;
    if (record.step == record.steps || !steps_.holds(record.step + 1)) write_trace(*group_, trace_, file_);
  }

  static train::StepRange trace_steps(const Options& options) {
    const auto [first, count] = parse_trace_steps(options.trace_steps);
    return {first, count};
  }

 private:
  std::shared_ptr<ProcessGroup> group_;
  Trace trace_;
  std::string file_;
  train::StepRange steps_;
};

train::FitOptions fit_options(const Options& options, const Inputs& inputs) {
  train::FitOptions fit;
  fit.epochs = options.epochs;
  fit.batch_size = static_cast<std::size_t>(options.batch_size);
  fit.seed = static_cast<std::uint64_t>(options.seed);
  fit.max_steps = options.max_steps;
  fit.test = inputs.test.get();
  fit.eval_every = options.eval_every;
  fit.step_in_backward = options.step_in_backward;
  if (options.lr_schedule == "cosine") fit.schedule = train::cosine_schedule;
  fit.global_loss = !options.metrics.empty() || !options.no_progress;
  return fit;
}

}  // namespace

Inputs read_inputs(const Options& options) {
  if (!options.output.empty()) train::require_writable(options.output, "--output");
  if (!options.metrics.empty()) train::require_writable(options.metrics, "--metrics");
  if (!options.trace.empty()) train::require_writable(options.trace, "--trace");
  auto train = open_data(options, "train");
  auto test = open_data(options, "test");
  LS_REQUIRE(train->size() > 0, "--data ", options.data, ": no training samples");
  LS_REQUIRE(test->size() > 0, "--data ", options.data, ": no test samples");
  LS_REQUIRE(train->sample_shape() == test->sample_shape(), "--data ", options.data, ": training samples are ",
             format_shape(train->sample_shape()), ", test samples ", format_shape(test->sample_shape()));
  ModelSpec spec;
  spec.name = options.model;
  spec.sample_shape = train->sample_shape();
  spec.classes = train->num_classes();
  spec.hidden = options.hidden;
  spec.seed = static_cast<std::uint64_t>(options.seed);
  train::Model model = make_model(spec);
  if (!options.init.empty()) train::load_weights(model.module(), options.init);
  std::int64_t parameters = 0;
  for (const auto& parameter : model.module().parameters()) parameters += parameter.numel();
  return {std::move(train), std::move(test), std::move(model), parameters};
}

void check_run(const Options& options, const Inputs& inputs, const ProcessGroup& group) {
  if (options.trace.empty()) return;
  const std::int64_t steps = train::count_steps(inputs.train->size(), group.world_size(), fit_options(options, inputs));
  LS_REQUIRE(Tracing::trace_steps(options).first <= steps, "--trace-steps ", options.trace_steps,
             ": begins behind the last step; the run has ", steps, steps == 1 ? " step" : " steps");
}

void run_job(const Options& options, const Inputs& inputs, std::shared_ptr<ProcessGroup> group) {
  const int rank = group->rank();
  const int world_size = group->world_size();
  Observers observers(options, rank);
  if (observers.progress) observers.progress->note(describe_run(options, inputs, world_size));
  if (observers.metrics) observers.metrics->line(run_line(options, inputs, world_size).dump());

  torch::optim::SGD optimizer(inputs.model.module().parameters(),
                              torch::optim::SGDOptions(options.lr).momentum(options.momentum));
  Tracing tracing(options, group);
  train::FitOptions fit = fit_options(options, inputs);
  tracing.observe(fit);
  fit.on_step = [&](const train::StepRecord& record) {
    observers.step(record);
    tracing.step(record);
  };
  fit.on_epoch = [&](const train::EpochRecord& record) { observers.epoch(record); };
  const train::FitReport report = train::fit(inputs.model, std::move(group), optimizer, *inputs.train, fit);
  if (rank != 0) return;
  observers.progress.reset();
  if (!options.output.empty()) train::save_weights(inputs.model.module(), options.output);
  const Json summary = summary_line(options, inputs, world_size, report);
  if (observers.metrics) observers.metrics->line(summary.dump());
  print_results(options, report, summary);
}

std::string compare_runs(const std::string& main_metrics, const std::string& control_metrics) {
  Json summary = Json::parse(train::read_summary(main_metrics));
  const train::LossDifference difference =
      train::compare_losses(train::read_losses(main_metrics), train::read_losses(control_metrics));
  summary["max_loss_difference"] = difference.largest;
  return summary.dump();
}

}  // namespace lockstep::app
