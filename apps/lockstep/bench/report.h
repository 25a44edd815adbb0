#pragma once

#include <iosfwd>
#include <string>
#include <vector>

#include "apps/lockstep/bench/limits.h"
#include "apps/lockstep/bench/model.h"
#include "apps/lockstep/bench/sweep.h"

namespace lockstep::bench {

/// What a result row says beside its numbers.
struct RowContext {
  std::string peer;    ///< lockstep, gloo_ring, openmpi ...
  std::string memory;  ///< backend, user
  SweepOptions options;
};

/// "lockstep all_reduce sum, f32, 2 ranks, backend memory".
std::string title_of(const RowContext& context);
/// Four significant digits: more is noise.
double rounded(double value);

/// One result as a line of JSON: {"event":"result","op":...,"peer":...,"memory":...,"nproc":...,"bytes":...,...}.
/// `model_us` is the machine's limit for it; absent where there is none.
std::string to_json(const RowContext& context, const SizeResult& result, std::optional<double> model_us);
/// {"event":"limits","cpu":...,"handoff_ns":...,"handoff_ns_after":...,"steady":...,...}.
std::string to_json(const MachineLimits& before, const MachineLimits& after);

/// The same for people, as a table with a header.
void print_table(std::ostream& out, const RowContext& context, const std::vector<SizeResult>& results,
                 const MachineLimits& limits);
void print_limits(std::ostream& out, const MachineLimits& before, const MachineLimits& after);

}  // namespace lockstep::bench
