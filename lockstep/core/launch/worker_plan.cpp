#include "lockstep/core/launch/worker_plan.h"

#include <unistd.h>

#include <algorithm>
#include <set>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/partition.h"

namespace lockstep::launch {
namespace {

Variables worker_environment(const PlanOptions& options, const WorkerPlan& plan) {
  const std::string rank = std::to_string(plan.rank);
  const std::string world_size = std::to_string(options.world_size);
  Variables out = {
      {"RANK", rank},
      {"WORLD_SIZE", world_size},
      {"LOCAL_RANK", std::to_string(plan.local_rank)},
      {"LOCAL_WORLD_SIZE", std::to_string(options.local_world_size)},
      {"GROUP_RANK", std::to_string(options.node_rank)},
      {"GROUP_WORLD_SIZE", std::to_string(options.nnodes)},
      // All workers of a job have one role, so these are the rank and size again.
      {"ROLE_NAME", options.role},
      {"ROLE_RANK", rank},
      {"ROLE_WORLD_SIZE", world_size},
      {"MASTER_ADDR", options.master_address},
      {"MASTER_PORT", std::to_string(options.master_port)},
      {"TORCHELASTIC_RESTART_COUNT", std::to_string(options.restart_count)},
      {"TORCHELASTIC_MAX_RESTARTS", std::to_string(options.max_restarts)},
      {"TORCHELASTIC_RUN_ID", options.run_id},
      // MASTER_PORT is the workers' own: a program that brings a store of its own, as torch's do, listens there.
      {"TORCHELASTIC_USE_AGENT_STORE", "False"},
      {"LOCKSTEP_STORE", options.store},
      {"LOCKSTEP_JOB_TOKEN", options.job_token},
  };
  if (options.set_threads) out.emplace_back("OMP_NUM_THREADS", std::to_string(plan.threads));
  return out;
}

}  // namespace

std::vector<std::vector<int>> share_cpus(const base::CpuBudget& budget, int workers) {
  const std::size_t count = static_cast<std::size_t>(workers);
  std::vector<std::vector<int>> shares(count);
  const std::size_t cpus = budget.cpus.size();
  if (count > cpus || static_cast<std::size_t>(budget.usable) < cpus) return shares;
  for (std::size_t i = 0; i < count; ++i) {
    const Range range = partition(cpus, count, i);
    shares[i].assign(budget.cpus.begin() + static_cast<std::ptrdiff_t>(range.begin),
                     budget.cpus.begin() + static_cast<std::ptrdiff_t>(range.end));
  }
  return shares;
}

std::vector<WorkerPlan> plan_workers(const PlanOptions& options, const base::CpuBudget& budget) {
  LS_CHECK(options.local_world_size > 0, "a plan for no workers");
  const auto shares = share_cpus(budget, options.local_world_size);
  std::vector<WorkerPlan> plans;
  for (int local_rank = 0; local_rank < options.local_world_size; ++local_rank) {
    WorkerPlan plan;
    plan.rank = options.first_rank + local_rank;
    plan.local_rank = local_rank;
    const auto& share = shares[static_cast<std::size_t>(local_rank)];
    plan.threads =
        share.empty() ? std::max(1, budget.usable / options.local_world_size) : static_cast<int>(share.size());
    if (options.pin) plan.cpus = share;
    plan.environment = worker_environment(options, plan);
    plans.push_back(std::move(plan));
  }
  return plans;
}

std::string format_cpus(const std::vector<int>& cpus) {
  std::string out;
  for (std::size_t i = 0; i < cpus.size();) {
    std::size_t last = i;
    while (last + 1 < cpus.size() && cpus[last + 1] == cpus[last] + 1) ++last;
    if (!out.empty()) out += ",";
    out += std::to_string(cpus[i]);
    if (last > i) out += "-" + std::to_string(cpus[last]);
    i = last + 1;
  }
  return out;
}

std::string describe(const std::vector<WorkerPlan>& plans, const base::CpuBudget& budget, bool set_threads) {
  const auto plural = [](std::size_t n, const char* word) { return base::cat(n, " ", word, n == 1 ? "" : "s"); };
  std::string out = plural(plans.size(), "worker") + " on " + plural(budget.cpus.size(), "CPU");
  if (static_cast<std::size_t>(budget.usable) < budget.cpus.size()) out += base::cat(" (quota ", budget.quota, ")");
  const auto [least, most] = std::ranges::minmax(plans, {}, &WorkerPlan::threads);
  const std::string threads =
      least.threads == most.threads ? std::to_string(least.threads) : base::cat(least.threads, "-", most.threads);
  if (plans.front().cpus.empty()) {
    out += ", not pinned";
  } else {
    out += " (" + threads + " each: ";
    constexpr std::size_t kShown = 8;
    for (std::size_t i = 0; i < std::min(kShown, plans.size()); ++i) {
      out += (i > 0 ? " | " : "") + format_cpus(plans[i].cpus);
    }
    out += plans.size() > kShown ? " | ...)" : ")";
  }
  if (set_threads) out += ", OMP_NUM_THREADS=" + threads;
  return out;
}

std::vector<std::string> merge_environment(const std::vector<std::string>& inherited, const Variables& added) {
  std::set<std::string_view> names;
  for (const auto& [name, value] : added) names.insert(name);
  std::vector<std::string> out;
  for (const std::string& entry : inherited) {
    if (!names.contains(std::string_view(entry).substr(0, entry.find('=')))) out.push_back(entry);
  }
  for (const auto& [name, value] : added) out.push_back(name + "=" + value);
  return out;
}

std::vector<std::string> own_environment() {
  std::vector<std::string> out;
  for (char** entry = environ; *entry != nullptr; ++entry) out.emplace_back(*entry);
  return out;
}

}  // namespace lockstep::launch
