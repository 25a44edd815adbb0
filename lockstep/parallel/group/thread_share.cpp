#include "lockstep/parallel/group/thread_share.h"

#include <unistd.h>

#include <algorithm>

#include <ATen/Parallel.h>

#include "lockstep/core/base/cpus.h"
#include "lockstep/core/base/environment.h"
#include "lockstep/core/base/log.h"

namespace lockstep::group {

int thread_share(int cpus, int host_cpus, int local_world_size, double quota) {
  const int ranks = std::max(1, local_world_size);
  int share = std::min(cpus, host_cpus / ranks);
  if (quota > 0) share = static_cast<int>(std::min<double>(share, quota / ranks));
  return std::max(1, share);
}

void share_threads(int local_world_size) {
  if (local_world_size <= 1 || environment_string("OMP_NUM_THREADS")) return;
  const base::CpuBudget budget = base::read_cpu_budget();
  const int host_cpus = static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN));
  const int threads = thread_share(static_cast<int>(budget.cpus.size()), host_cpus, local_world_size, budget.quota);
  at::set_num_threads(threads);
  LS_LOG(kInfo, "OMP_NUM_THREADS is not set: computing with ", threads, " thread(s), this rank's share of the host");
}

}  // namespace lockstep::group
