#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include <nlohmann/json.hpp>

#include "bench/steps/models/model.h"
#include "bench/steps/options.h"
#include "lockstep/parallel/group/process_group.h"

namespace lockstep::bench {

using Json = nlohmann::ordered_json;

/// Joins the job that the environment describes, with the number of threads that the options ask for.
std::shared_ptr<ProcessGroup> join(const StepOptions& options);

/// Collective: one round of a model. Two rows, `nosync` and `ddp`, alike on all ranks. Throws InternalError where the
/// replicas differ after training or the loss is no number.
std::vector<Json> time_steps(const std::shared_ptr<ProcessGroup>& world, const ModelSpec& model,
                             const StepOptions& options);

/// Collective but for `nosync`, which has no group, so that nothing of Lockstep is in it: trains a few steps and
/// measures this rank's memory. One row, of the largest rank: `bytes` that are in use, and `resident_bytes`, which hold
/// the most that a step needed at once, and how the heap came to lie.
Json measure_memory(const ModelSpec& model, const StepOptions& options, bool synchronise);

/// In a world of one, where the backend has nothing to do: what hooks, bookkeeping and launches cost. One row.
Json measure_host_cost(const std::shared_ptr<ProcessGroup>& world, const StepOptions& options);

}  // namespace lockstep::bench
