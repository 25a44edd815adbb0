#pragma once
// Training of a random graph by DDP, and by one process that averages by hand.

#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "lockstep/parallel/group/process_group.h"
#include "tests/support/random_graph.h"

namespace lockstep::support {

/// What one rank saw. Tensors are copies; undefined where there was none.
struct StepRecord {
  std::vector<at::Tensor> gradients;   ///< before the optimizer's step
  std::vector<at::Tensor> parameters;  ///< after it
  std::vector<at::Tensor> buffers;
  std::vector<double> losses;  ///< of each backward, and of evaluation
};
struct TrainingRecord {
  std::vector<StepRecord> steps;  ///< those that the rank has inputs for
  StepRecord end;                 ///< after all, without gradients
};

/// This rank's part of the training, through DistributedDataParallel.
TrainingRecord train_random_graph(const GraphSpec& spec, const std::shared_ptr<ProcessGroup>& group);

/// The same of all ranks, one after the other, without DDP: each rank has a module of its own, and gradients and
/// buffers are made equal by hand.
std::vector<TrainingRecord> train_random_graph_alone(const GraphSpec& spec);

/// Empty where the records agree: rounding apart, with the same gradients absent. Else the first difference.
std::string difference(const GraphSpec& spec, const TrainingRecord& expected, const TrainingRecord& got);

}  // namespace lockstep::support
