#pragma once

#include <iosfwd>
#include <string>
#include <vector>

#include "apps/lockstep/bench/report.h"
#include "apps/lockstep/bench/sweep.h"
#include "lockstep/core/comm/communicator.h"

namespace lockstep::bench {

/// The ways that one size of a sweep can go.
struct SizePaths {
  SizePlan size;
  std::vector<PathEstimate> paths;  ///< one of them chosen
};

/// The call that a sweep times for one size, without its buffers.
Collective collective_of(const SweepOptions& options, const SizePlan& size);

/// Throws UsageError for sendrecv, whose messages all go one way, and for one rank alone, which moves nothing.
void require_explainable(const SweepOptions& options);

/// What `communicator` would do with each size of an explainable sweep; nothing is carried out. `backend_memory`: where
/// input and output lie.
std::vector<SizePaths> explain_sweep(const Communicator& communicator, const SweepOptions& options,
                                     bool backend_memory);

/// What the communicator's model takes for a hand-off between two ranks: the time of a barrier.
double handoff_us(const Communicator& communicator);

/// For people, as a table.
void print_paths(std::ostream& out, const RowContext& context, const std::vector<SizePaths>& rows, double handoff);
/// One size as a line of JSON: {"event":"plan","op":...,"bytes":...,"path":...,"steps":...,"us":{path: us, ...}}.
std::string to_json(const RowContext& context, const SizePaths& row);

}  // namespace lockstep::bench
