#include "lockstep/core/comm/init.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "lockstep/core/backend/meeting.h"
#include "lockstep/core/base/check.h"
#include "lockstep/core/base/host.h"
#include "lockstep/core/base/log.h"
#include "lockstep/core/comm/build_backend.h"
#include "lockstep/core/comm/job_store.h"
#include "lockstep/core/io/socket.h"
#include "lockstep/core/store/tcp_store.h"

namespace lockstep {
namespace {

Duration from_seconds(double value) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(value));
}

InitOptions with_environment(InitOptions options) {
  if (const auto timeout = environment_seconds("LOCKSTEP_TIMEOUT")) options.timeout = from_seconds(*timeout);
  if (const auto timeout = environment_seconds("LOCKSTEP_INIT_TIMEOUT")) options.init_timeout = from_seconds(*timeout);
  if (const auto backend = environment_string("LOCKSTEP_BACKEND"); backend && options.backend == "auto") {
    options.backend = *backend;
  }
  if (const auto engine = environment_string("LOCKSTEP_NETWORK"); engine && options.network.engine == "auto") {
    options.network.engine = *engine;
  }
  if (options.network.interface.empty()) {
    options.network.interface = environment_string("LOCKSTEP_INTERFACE").value_or("");
  }
  return options;
}

/// host:port of a store that somebody serves already, as `lockstep run` does.
std::shared_ptr<Store> connect_served_store(const std::string& address, const std::string& token, Deadline deadline) {
  const auto served = io::split_host_port(address, 0);
  LS_REQUIRE(served && served->port > 0, "LOCKSTEP_STORE is '", address,
             "'; expected host:port, or [host]:port of an IPv6 address");
  return connect_tcp_store(served->host, served->port, token, deadline);
}

std::shared_ptr<Store> meet(const RankEnvironment& environment, Deadline deadline) {
  if (const auto served = environment_string("LOCKSTEP_STORE")) {
    return connect_served_store(*served, environment.job_token, deadline);
  }
  LS_REQUIRE(!environment.master_address.empty() && environment.master_port > 0, "rank ", environment.rank, "/",
             environment.world_size, ": MASTER_ADDR and MASTER_PORT are not set, and ", environment.source,
             " does not say where rank 0 is; set them to rank 0's host and a free port of it");
  // torchrun's agent serves torch's own store at MASTER_PORT: ours takes the next port.
  const bool taken = environment_bool("TORCHELASTIC_USE_AGENT_STORE").value_or(false);
  const int port = environment.master_port + (taken ? 1 : 0);
  if (environment.rank == 0) return host_store(environment.master_address, port, environment.job_token).store;
  return connect_tcp_store(environment.master_address, port, environment.job_token, deadline);
}

/// Local rank, local world size and node rank, where no launcher said them.
void find_place(RankEnvironment& environment, const std::vector<std::string>& host_ids) {
  const base::HostMap map = base::group_by_host(host_ids);
  environment.node_rank = map.host_of_rank[static_cast<std::size_t>(environment.rank)];
  const std::vector<int>& here = map.ranks_of_host[static_cast<std::size_t>(environment.node_rank)];
  environment.local_rank = static_cast<int>(std::ranges::find(here, environment.rank) - here.begin());
  environment.local_world_size = static_cast<int>(here.size());
}

}  // namespace

std::vector<std::string_view> built_in_backends() {
  const Engines engines = available_engines();
  std::vector<std::string_view> names = {"self", "shm"};
  if (engines.gloo) names.push_back("gloo");
  if (engines.mpi) names.push_back("mpi");
  if (engines.gloo || engines.mpi) names.push_back("hier");
  return names;
}

std::shared_ptr<Communicator> make_communicator(std::shared_ptr<Store> store, int rank, int world_size,
                                                const InitOptions& options) {
  LS_REQUIRE(world_size > 0 && rank >= 0 && rank < world_size, "group ", options.name, ": rank ", rank,
             " is not in [0, ", world_size, ")");
  const Deadline deadline = Deadline::after(options.init_timeout);
  CommunicatorOptions communicator_options;
  communicator_options.name = options.name;
  communicator_options.timeout = options.timeout;
  communicator_options.global_ranks = options.global_ranks;
  communicator_options.backend = options.backend;
  communicator_options.network = options.network;
  communicator_options.dump_directory = environment_string("LOCKSTEP_FLIGHT_DIR").value_or("");
  const Meeting meeting{options.name, rank, world_size, deadline, options.while_waiting};
  communicator_options.host_ids = options.host_ids;
  if (communicator_options.host_ids.empty()) {
    const std::string host = options.host_id.empty() ? base::own_host().id : options.host_id;
    communicator_options.host_ids =
        world_size == 1 ? std::vector<std::string>{host}
                        : exchange_values(*make_prefix_store(store, "hosts/" + options.name), meeting, "host", host);
  }
  BuiltBackend built = build_backend(store, meeting, communicator_options);
  communicator_options.store = std::move(store);
  communicator_options.backend_reason = std::move(built.reason);
  auto communicator = Communicator::create(std::move(built.backend), std::move(communicator_options));
  LS_LOG(kInfo, "group ", options.name, ": rank ", rank, "/", world_size, " on backend ", communicator->backend_name(),
         " (", communicator->backend_reason(), ")");
  return communicator;
}

Job init_from_environment(const InitOptions& given) {
  InitOptions options = with_environment(given);
  Job job;
  job.environment = read_rank_environment();
  const RankEnvironment& environment = job.environment;
  if (options.network.route_to.empty()) options.network.route_to = environment.master_address;
  base::set_log_identity(base::cat("rank ", environment.rank, "/", environment.world_size));
  if (environment.world_size == 1) {
    job.store = make_memory_store();
  } else {
    // Restarted jobs meet anew in the same store: their keys are kept apart.
    job.store = make_prefix_store(meet(environment, Deadline::after(options.init_timeout)),
                                  base::cat("attempt", environment.restart_count));
  }
  job.communicator = make_communicator(job.store, environment.rank, environment.world_size, options);
  if (!environment.local_is_given) find_place(job.environment, job.communicator->options().host_ids);
  return job;
}

}  // namespace lockstep
