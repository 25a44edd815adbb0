#include "apps/lockstep/run_preview.h"

#include <ostream>

#include <nlohmann/json.hpp>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/host.h"

namespace lockstep {
namespace {

using Json = nlohmann::ordered_json;

std::string joined(const std::vector<std::string>& words) {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : " ") + word;
  return out;
}

std::string span_of(const launch::JobOptions& options, const launch::JobPreview& preview) {
  std::string out =
      base::cat("node ", options.node_rank, " of ", options.nnodes, ": ranks ", preview.workers.front().rank, "-",
                preview.workers.back().rank, " of ", preview.world_size);
  if (options.nnodes > 1) out += base::cat(", if every node starts ", options.nproc_per_node);
  return out;
}

}  // namespace

void print_preview(std::ostream& out, const launch::JobOptions& options, const launch::JobPreview& preview) {
  out << "program  " << joined(options.command) << '\n'
      << "host     " << base::host_name() << ", " << span_of(options, preview) << '\n'
      << "layout   " << describe(preview.workers, preview.budget, preview.sets_threads) << '\n'
      << "store    " << preview.store << ", " << (options.node_rank == 0 ? "served here" : "served by node 0") << '\n'
      << "job      " << preview.run_id << ", secret: " << preview.token_source << '\n'
      << "restarts " << options.max_restarts << '\n';
  if (!options.log_dir.empty()) out << "logs     " << options.log_dir << '\n';
  for (const launch::WorkerPlan& worker : preview.workers) {
    out << "rank " << worker.rank << ": "
        << (worker.cpus.empty() ? "not pinned" : "CPUs " + launch::format_cpus(worker.cpus)) << '\n';
    for (const auto& [name, value] : worker.environment) out << "  " << name << '=' << value << '\n';
  }
}

std::string preview_to_json(const launch::JobOptions& options, const launch::JobPreview& preview,
                            const std::vector<std::string>& problems) {
  Json workers = Json::array();
  for (const launch::WorkerPlan& worker : preview.workers) {
    Json environment = Json::object();
    for (const auto& [name, value] : worker.environment) environment[name] = value;
    workers.push_back({{"rank", worker.rank},
                       {"local_rank", worker.local_rank},
                       {"cpus", worker.cpus},
                       {"threads", worker.threads},
                       {"environment", environment}});
  }
  const Json json = {{"problems", problems},
                     {"program", options.command},
                     {"host", base::host_name()},
                     {"nnodes", options.nnodes},
                     {"node_rank", options.node_rank},
                     {"world_size", preview.world_size},
                     {"cpus", preview.budget.cpus},
                     {"quota", preview.budget.quota},
                     {"store", preview.store},
                     {"run_id", preview.run_id},
                     {"token", preview.token_source},
                     {"log_dir", options.log_dir},
                     {"max_restarts", options.max_restarts},
                     {"workers", workers}};
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace lockstep
