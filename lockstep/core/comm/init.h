#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "lockstep/core/base/environment.h"
#include "lockstep/core/comm/communicator.h"
#include "lockstep/core/store/store.h"

namespace lockstep {

struct InitOptions {
  std::string backend = "auto";  ///< auto, self, shm, gloo, mpi, hier
  NetworkOptions network = {};   ///< between hosts
  std::string host_id = {};      ///< ranks that say the same are taken to share memory; empty: as the kernel says
  std::vector<std::string> host_ids = {};  ///< of all ranks, where they are known; empty: they tell each other
  std::string name = "world";
  std::vector<int> global_ranks = {};                 ///< see CommunicatorOptions
  Duration timeout = std::chrono::seconds(300);       ///< default deadline of each operation
  Duration init_timeout = std::chrono::seconds(300);  ///< for all ranks to arrive
  /// Called every few milliseconds until all ranks have arrived; what it throws ends the wait.
  std::function<void()> while_waiting = {};
};

/// The backends of this build, by the names that InitOptions::backend takes.
std::vector<std::string_view> built_in_backends();

/// A communicator, and the store that its ranks met in.
struct Job {
  RankEnvironment environment;
  std::shared_ptr<Store> store;
  std::shared_ptr<Communicator> communicator;
};

/// Joins the job that the launcher's environment describes (see read_rank_environment): connects to the launcher's
/// store, or lets rank 0 host one at MASTER_ADDR:MASTER_PORT, waits for all ranks and builds the world's communicator.
/// Where the launcher did not say how ranks are spread over hosts, they tell each other (core/base/host.h), and local
/// rank, local world size and node rank are what that comes to.
///
/// LOCKSTEP_BACKEND, LOCKSTEP_NETWORK and LOCKSTEP_INTERFACE stand in for options that are auto or empty.
/// LOCKSTEP_TIMEOUT and LOCKSTEP_INIT_TIMEOUT (seconds) override the options. Throws UsageError for a contradictory
/// environment, TimeoutError that names the ranks that never arrived, SystemError.
Job init_from_environment(const InitOptions& options = {});

/// The same among ranks that already share a store (threads, or a second group).
std::shared_ptr<Communicator> make_communicator(std::shared_ptr<Store> store, int rank, int world_size,
                                                const InitOptions& options = {});

}  // namespace lockstep
