#include "apps/lockstep/bench/explain.h"

#include <algorithm>
#include <iomanip>
#include <ostream>

#include <nlohmann/json.hpp>

#include "lockstep/core/base/check.h"

namespace lockstep::bench {
namespace {

const PathEstimate& chosen_of(const SizePaths& row) {
  const auto chosen =
      std::find_if(row.paths.begin(), row.paths.end(), [](const PathEstimate& path) { return path.chosen; });
  LS_CHECK(chosen != row.paths.end(), "the backend chose no path for ", row.size.bytes, " bytes");
  return *chosen;
}

}  // namespace

Collective collective_of(const SweepOptions& options, const SizePlan& size) {
  Collective collective;
  collective.kind = options.op;
  collective.dtype = options.dtype;
  collective.op = options.reduce_op;
  collective.count = size.count;
  return collective;
}

void require_explainable(const SweepOptions& options) {
  LS_REQUIRE(options.op != OpKind::kSend, "--explain: a message of sendrecv goes one way, whatever its size");
  LS_REQUIRE(options.world_size > 1, "--explain needs --nproc 2 or more: one rank moves nothing");
}

std::vector<SizePaths> explain_sweep(const Communicator& communicator, const SweepOptions& options,
                                     bool backend_memory) {
  std::vector<SizePaths> rows;
  for (const SizePlan& size : plan_sizes(options)) {
    rows.push_back({size, communicator.explain(collective_of(options, size), backend_memory)});
  }
  return rows;
}

double handoff_us(const Communicator& communicator) {
  const std::vector<PathEstimate> barrier = communicator.explain(Collective{}, true);
  LS_CHECK(barrier.size() == 1, "a barrier goes one way");
  return barrier.front().us;
}

void print_paths(std::ostream& out, const RowContext& context, const std::vector<SizePaths>& rows, double handoff) {
  out << title_of(context) << ": the path of each size, by the model\n"
      << "us = hand-offs x L + KiB copied to where others read x w + KiB read of others x r, on the slowest rank;\n"
      << "L, w and r are measured where each rank has a CPU, else built in (here L = " << std::fixed
      << std::setprecision(3) << handoff << " us); steps follow one another\n"
      << std::setw(10) << "bytes" << std::setw(12) << "count"
      << "  " << std::left << std::setw(8) << "path" << std::right << std::setw(7) << "steps"
      << "  us of each path that is possible\n";
  for (const SizePaths& row : rows) {
    const PathEstimate& chosen = chosen_of(row);
    out << std::setw(10) << format_bytes(row.size.bytes) << std::setw(12) << row.size.count << "  " << std::left
        << std::setw(8) << chosen.path << std::right << std::setw(7) << chosen.steps;
    for (const PathEstimate& path : row.paths) out << "  " << path.path << ' ' << std::setprecision(2) << path.us;
    out << '\n';
  }
}

std::string to_json(const RowContext& context, const SizePaths& row) {
  const PathEstimate& chosen = chosen_of(row);
  nlohmann::ordered_json line = {{"event", "plan"},
                                 {"op", bench_name(context.options.op)},
                                 {"memory", context.memory},
                                 {"nproc", context.options.world_size},
                                 {"bytes", row.size.bytes},
                                 {"count", row.size.count},
                                 {"dtype", name_of(context.options.dtype)},
                                 {"path", chosen.path},
                                 {"steps", chosen.steps}};
  for (const PathEstimate& path : row.paths) line["us"][std::string(path.path)] = rounded(path.us);
  return line.dump();
}

}  // namespace lockstep::bench
