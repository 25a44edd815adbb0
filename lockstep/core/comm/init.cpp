#include "lockstep/core/comm/init.h"

#include <algorithm>
#include <chrono>
#include <iterator>
#include <sstream>
#include <utility>

#include "lockstep/core/backend/self/self_backend.h"
#include "lockstep/core/backend/shm/shm_backend.h"
#include "lockstep/core/base/check.h"
#include "lockstep/core/base/host.h"
#include "lockstep/core/base/log.h"
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
  return options;
}

/// host:port of a store that somebody serves already, as `lockstep run` does.
std::shared_ptr<Store> connect_served_store(const std::string& address, const std::string& token, Deadline deadline) {
  const auto colon = address.rfind(':');
  int port = 0;
  if (colon != std::string::npos && address.find_first_not_of("0123456789", colon + 1) == std::string::npos &&
      address.size() - colon <= 6 && colon + 1 < address.size()) {
    port = std::stoi(address.substr(colon + 1));
  }
  LS_REQUIRE(port > 0 && port < 65536, "LOCKSTEP_STORE is '", address, "'; expected host:port");
  return connect_tcp_store(address.substr(0, colon), port, token, deadline);
}

/// A store that its host keeps alive with it.
class HostedStore {
 public:
  static std::shared_ptr<Store> serve(const RankEnvironment& environment, int port) {
    TcpStoreServerOptions options;
    options.address = environment.master_address;
    options.port = port;
    options.token = environment.job_token;
    auto server = std::make_shared<TcpStoreServer>(std::move(options));
    auto store = server->local();
    return std::shared_ptr<Store>(store.get(), [server, store](Store*) {});
  }
};

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
  if (environment.rank == 0) return HostedStore::serve(environment, port);
  return connect_tcp_store(environment.master_address, port, environment.job_token, deadline);
}

/// What another rank says in the store.
std::string hear(Store& store, const std::string& key, Deadline deadline, const InitOptions& options) {
  for (;;) {
    try {
      constexpr Duration kSlice = std::chrono::milliseconds(20);
      return store.get(key,
                       Deadline::after(options.while_waiting ? std::min(deadline.left(), kSlice) : deadline.left()));
    } catch (const TimeoutError&) {
      if (deadline.passed()) throw;
      options.while_waiting();
    }
  }
}

std::string host_key(int rank) { return base::cat("host/", rank); }

/// The number of each rank's host, as text. Throws TimeoutError that names the ranks that never arrived.
std::string find_hosts(const RankEnvironment& environment, Store& store, Deadline deadline,
                       const InitOptions& options) {
  std::vector<std::string> ids;
  try {
    for (int rank = 0; rank < environment.world_size; ++rank) {
      ids.push_back(hear(store, host_key(rank), deadline, options));
    }
  } catch (const TimeoutError&) {
    std::string missing;
    const int first = static_cast<int>(ids.size());
    for (int rank = first; rank < environment.world_size; ++rank) {
      if (!store.try_get(host_key(rank))) missing += base::cat(missing.empty() ? "" : ", ", rank);
    }
    throw TimeoutError(
        base::cat("rank 0/", environment.world_size, " group ", options.name, ": waited ", seconds(deadline.timeout()),
                  " s for rank ", missing, "; is it running, with the same MASTER_ADDR and MASTER_PORT?"),
        first);
  }
  std::string hosts;
  for (const int host : base::group_by_host(ids).host_of_rank) hosts += base::cat(host, ' ');
  return hosts;
}

/// Where the launcher did not say which ranks share a host, rank 0 finds out for all. Every rank says where it is,
/// since it cannot know whether the others were told. Before the group forms: later rank 0, and the store, may leave.
void find_place(RankEnvironment& environment, Store& store, Deadline deadline, const InitOptions& options) {
  store.set(host_key(environment.rank), base::own_host().id);
  if (environment.rank == 0) {
    store.set("host_of_rank", environment.local_is_given ? "" : find_hosts(environment, store, deadline, options));
  }
  if (environment.local_is_given) return;
  std::istringstream in(hear(store, "host_of_rank", deadline, options));
  const std::vector<int> hosts{std::istream_iterator<int>(in), {}};
  if (hosts.empty()) return;  // Rank 0 was told by its launcher: this one was started differently.
  const auto mine = hosts.begin() + environment.rank;
  environment.node_rank = *mine;
  environment.local_rank = static_cast<int>(std::count(hosts.begin(), mine, *mine));
  environment.local_world_size = static_cast<int>(std::count(hosts.begin(), hosts.end(), *mine));
}

}  // namespace

std::vector<std::string_view> built_in_backends() { return {"self", "shm"}; }

std::shared_ptr<Communicator> make_communicator(std::shared_ptr<Store> store, int rank, int world_size,
                                                const InitOptions& options) {
  LS_REQUIRE(world_size > 0 && rank >= 0 && rank < world_size, "group ", options.name, ": rank ", rank,
             " is not in [0, ", world_size, ")");
  const Deadline deadline = Deadline::after(options.init_timeout);
  const std::string backend_name = options.backend != "auto" ? options.backend : (world_size == 1 ? "self" : "shm");
  std::unique_ptr<Backend> backend;
  if (backend_name == "self") {
    LS_REQUIRE(world_size == 1, "the self backend is for a world of one, not ", world_size, "; use shm");
    backend = make_self_backend();
  } else if (backend_name == "shm") {
    const auto keys = make_prefix_store(store, "shm/" + options.name);
    backend = make_shm_backend(*keys, {options.name, rank, world_size, deadline, options.while_waiting});
  } else {
    throw UsageError(base::cat("unknown backend '", backend_name, "'; expected auto, self or shm"));
  }
  CommunicatorOptions communicator_options;
  communicator_options.name = options.name;
  communicator_options.timeout = options.timeout;
  communicator_options.global_ranks = options.global_ranks;
  communicator_options.backend = options.backend;
  communicator_options.store = std::move(store);
  communicator_options.dump_directory = environment_string("LOCKSTEP_FLIGHT_DIR").value_or("");
  auto communicator = Communicator::create(std::move(backend), std::move(communicator_options));
  LS_LOG(kInfo, "group ", options.name, ": rank ", rank, "/", world_size, " on backend ", communicator->backend_name());
  return communicator;
}

Job init_from_environment(const InitOptions& given) {
  const InitOptions options = with_environment(given);
  Job job;
  job.environment = read_rank_environment();
  const RankEnvironment& environment = job.environment;
  base::set_log_identity(base::cat("rank ", environment.rank, "/", environment.world_size));
  if (environment.world_size == 1) {
    job.store = make_memory_store();
  } else {
    // Restarted jobs meet anew in the same store: their keys are kept apart.
    job.store = make_prefix_store(meet(environment, Deadline::after(options.init_timeout)),
                                  base::cat("attempt", environment.restart_count));
    find_place(job.environment, *job.store, Deadline::after(options.init_timeout), options);
  }
  job.communicator = make_communicator(job.store, environment.rank, environment.world_size, options);
  return job;
}

}  // namespace lockstep
