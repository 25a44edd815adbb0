#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "apps/lockstep-train/options.h"
#include "lockstep/parallel/data/dataset.h"
#include "lockstep/parallel/group/process_group.h"
#include "lockstep/parallel/train/model.h"

namespace lockstep::app {

/// What a run reads before it starts. Reading it writes nothing.
struct Inputs {
  std::unique_ptr<data::Dataset> train;
  std::unique_ptr<data::Dataset> test;
  train::Model model;
  std::int64_t parameters = 0;  ///< elements
};

/// Reads the data and builds the model, with the weights of --init where given; checks that what the run will write can
/// be written. Throws UsageError, SystemError, CorruptionError, MismatchError; each names the flag or file.
Inputs read_inputs(const Options& options);

/// What can be wrong only with a number of workers. Throws UsageError that names the flag.
void check_run(const Options& options, const Inputs& inputs, const ProcessGroup& group);

/// Collective: trains, evaluates, writes metrics, trace and weights (rank 0), prints the results (rank 0).
void run_job(const Options& options, const Inputs& inputs, std::shared_ptr<ProcessGroup> group);

/// The summary of the run that wrote `main_metrics` (JSON), with max_loss_difference to the run that wrote
/// `control_metrics` filled in. Throws as read_losses, read_summary and compare_losses.
std::string compare_runs(const std::string& main_metrics, const std::string& control_metrics);

}  // namespace lockstep::app
