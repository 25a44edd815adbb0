#pragma once

#include <string>
#include <vector>

#include "bench/steps/measure.h"
#include "bench/steps/options.h"

namespace lockstep::bench {

/// Measures everything that the options ask for with ranks of its own, started anew for every row, and calls `emit`
/// with each row when it is complete: those of a round together, so that they hold `round`, their own `share` of the
/// unsynchronised speed and, for Lockstep beside PyTorch, `vs_pytorch`.
/// Throws what spawn() does, and UsageError where PyTorch is asked for and is not here.
void run_job(const StepOptions& options, const std::function<void(const Json&)>& emit);

/// As one rank of a job that a launcher started: calls `emit` on rank 0.
void run_member(const StepOptions& options, const std::function<void(const Json&)>& emit);

}  // namespace lockstep::bench
