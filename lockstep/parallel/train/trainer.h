#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include <torch/optim/optimizer.h>

#include "lockstep/parallel/data/dataset.h"
#include "lockstep/parallel/ddp/distributed_data_parallel.h"
#include "lockstep/parallel/group/process_group.h"
#include "lockstep/parallel/train/model.h"
#include "lockstep/parallel/train/records.h"

namespace lockstep {
class Trace;
}

namespace lockstep::train {

/// `count` steps from `first` on, counted from 1 as in StepRecord.
struct StepRange {
  std::int64_t first = 1;
  std::int64_t count = 1;

  bool holds(std::int64_t step) const noexcept { return step >= first && step - first < count; }
};

struct FitOptions {
  std::int64_t epochs = 1;
  std::size_t batch_size = 32;          ///< of this rank
  std::uint64_t seed = 0;               ///< of the order of the data; the same on all ranks
  std::int64_t max_steps = 0;           ///< end after so many steps; 0: after the epochs
  const data::Dataset* test = nullptr;  ///< evaluated at the end; null: never
  std::int64_t eval_every = 1;          ///< ... and after every so many epochs; 0: at the end only
  /// Multiplies the optimizer's learning rate as it is when fit() begins: a pure function of step (from 0) and the
  /// number of steps. The rate is put back at the end. Empty: constant.
  std::function<double(std::int64_t, std::int64_t)> schedule = {};
  /// True: each StepRecord's loss is over all ranks, for one all-reduce of 16 bytes a step. The same on all ranks.
  bool global_loss = true;
  DdpOptions ddp = {};
  /// The optimizer steps on each bucket of gradients while later ones are on their way; see
  /// DistributedDataParallel::step_in_backward. The same bits; faster where the network is slow.
  bool step_in_backward = false;
  /// Takes the spans of the steps of `trace_steps`: "step N", and in it "data" (the wait for it), "zero_grad" and
  /// "optimizer" (not where step_in_backward), and what DDP records (see set_trace). Null: nothing is recorded. It
  /// outlives fit().
  Trace* trace = nullptr;
  StepRange trace_steps = {};
  std::function<void(const StepRecord&)> on_step = {};    ///< called after each step, on every rank
  std::function<void(const EpochRecord&)> on_epoch = {};  ///< called after each epoch, on every rank
};

/// Collective: trains `model` as a classifier (mean cross entropy) with data parallelism: shuffles by seed and epoch,
/// splits each epoch over the ranks, averages gradients while backward runs, steps `optimizer` (which must hold the
/// module's parameters, and starts with their values of rank 0).
///
/// N ranks with batch b take the same steps as one rank with batch N * b, but for the order of float additions, where
/// N divides the number of samples. Two runs of one configuration are bit-identical.
/// Throws UsageError (a bad option, a trace that would begin behind the last step), Error (a loss that is no number:
/// names the step and what to change), and what DistributedDataParallel and ProcessGroup throw.
/// Threads: one; the loader has its own.
FitReport fit(const Model& model, std::shared_ptr<ProcessGroup> group, torch::optim::Optimizer& optimizer,
              const data::Dataset& dataset, const FitOptions& options);

/// The steps that fit() takes on so many samples and ranks.
std::int64_t count_steps(std::size_t samples, int world_size, const FitOptions& options);

/// From 1 down to 0 along half a cosine: Loshchilov and Hutter, SGDR (2017), without restarts.
double cosine_schedule(std::int64_t step, std::int64_t steps);

}  // namespace lockstep::train
