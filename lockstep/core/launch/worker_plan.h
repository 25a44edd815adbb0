#pragma once
// Which worker runs where, with what environment: pure functions. Internal: never included from a public header.

#include <string>
#include <utility>
#include <vector>

#include "lockstep/core/base/cpus.h"

namespace lockstep::launch {

/// What the workers of one host need to know of their job.
struct PlanOptions {
  int node_rank = 0;
  int nnodes = 1;
  int first_rank = 0;        ///< rank of this host's first worker
  int local_world_size = 1;  ///< workers on this host
  int world_size = 1;
  std::string master_address = "127.0.0.1";
  int master_port = 0;  ///< free for rank 0 to listen on; the launcher's store is elsewhere
  std::string store;    ///< host:port of the launcher's store
  std::string job_token;
  std::string run_id;
  std::string role = "default";
  int restart_count = 0;
  int max_restarts = 0;
  bool pin = true;          ///< each worker keeps to its share of the CPUs, where there is one for each
  bool set_threads = true;  ///< OMP_NUM_THREADS is unset, so it becomes the worker's share
};

using Variables = std::vector<std::pair<std::string, std::string>>;

struct WorkerPlan {
  int rank = 0;
  int local_rank = 0;
  std::vector<int> cpus;  ///< to pin it to; empty: not pinned
  int threads = 1;        ///< its share of what can run at once; at least 1
  Variables environment;  ///< added to the launcher's own
};

/// Contiguous, equal shares (sizes differ by at most one) of the CPUs, or nothing for any worker where pinning would
/// harm: more workers than CPUs, or a control group's quota below the mask, which leaves to the kernel which CPUs are
/// free at a time.
std::vector<std::vector<int>> share_cpus(const base::CpuBudget& budget, int workers);

/// One plan for each local worker, in order of local rank. Requires local_world_size > 0.
std::vector<WorkerPlan> plan_workers(const PlanOptions& options, const base::CpuBudget& budget);

/// One line for people: "2 workers on 2 CPUs (1 each: 0 | 1), OMP_NUM_THREADS=1".
std::string describe(const std::vector<WorkerPlan>& plans, const base::CpuBudget& budget, bool set_threads);

/// "0-3,8": CPU numbers as the kernel writes them.
std::string format_cpus(const std::vector<int>& cpus);

/// The environment of a worker: `inherited` ("NAME=value") without the names that `added` sets, then those.
std::vector<std::string> merge_environment(const std::vector<std::string>& inherited, const Variables& added);

/// This process's environment as "NAME=value".
std::vector<std::string> own_environment();

}  // namespace lockstep::launch
