#include "lockstep/parallel/group/thread_share.h"

#include <unistd.h>

#include <algorithm>

#include <ATen/Parallel.h>

#include "lockstep/core/base/cpus.h"
#include "lockstep/core/base/environment.h"
#include "lockstep/core/base/log.h"

namespace lockstep::group {

int thread_share(int usable, int online, int local_world_size) {
  const bool bound = usable < online;
  return std::max(1, bound ? usable : usable / std::max(1, local_world_size));
}

void share_threads(int local_world_size) {
  if (local_world_size <= 1 || environment_string("OMP_NUM_THREADS")) return;
  const int online = static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN));
  const int threads = thread_share(base::read_cpu_budget().usable, online, local_world_size);
  at::set_num_threads(threads);
  LS_LOG(kInfo, "OMP_NUM_THREADS is not set: computing with ", threads, " thread(s), this rank's share of the host");
}

}  // namespace lockstep::group
