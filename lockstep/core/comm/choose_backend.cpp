#include "lockstep/core/comm/choose_backend.h"

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/host.h"

namespace lockstep {
namespace {

std::string choose_engine(const std::string& asked, const Engines& engines) {
  LS_REQUIRE(asked == "auto" || asked == "gloo" || asked == "mpi", "unknown engine between hosts '", asked,
             "'; expected auto, gloo or mpi");
  LS_REQUIRE(asked != "gloo" || engines.gloo,
             "gloo is not built into this Lockstep; install libgloo-dev and configure it anew");
  LS_REQUIRE(asked != "mpi" || engines.mpi,
             "there is no MPI module with this Lockstep; install libopenmpi-dev or libmpich-dev and configure it anew");
  if (asked != "auto") return asked;
  if (engines.gloo) return "gloo";
  LS_REQUIRE(engines.mpi && engines.launched_by_mpi,
             "the ranks are on several hosts and nothing is built in that reaches the others; install libgloo-dev (or "
             "start the job by mpirun, with an MPI module) and configure Lockstep anew");
  return "mpi";
}

std::string count_of(std::size_t n, const char* what) { return base::cat(n, " ", what, n == 1 ? "" : "s"); }

}  // namespace

BackendChoice choose_backend(const std::string& asked, const std::string& engine, int world_size,
                             std::span<const std::string> host_ids, const Engines& engines) {
  const std::string by_name = "asked for by name";
  if (asked == "self") {
    LS_REQUIRE(world_size == 1, "the self backend is for a world of one, not ", world_size, "; use auto");
    return {"self", "", by_name};
  }
  if (asked == "shm") return {"shm", "", by_name};
  if (asked == "gloo" || asked == "mpi") return {asked, choose_engine(asked, engines), by_name};
  LS_REQUIRE(asked == "auto" || asked == "hier", "unknown backend '", asked,
             "'; expected auto, self, shm, gloo, mpi or hier");
  if (asked == "hier") return {"hier", choose_engine(engine, engines), by_name};
  if (world_size == 1) return {"self", "", "one rank"};
  const base::HostMap map = base::group_by_host(host_ids);
  const std::string where =
      base::cat(count_of(host_ids.size(), "rank"), " on ", count_of(static_cast<std::size_t>(map.hosts), "host"));
  if (map.hosts == 1) return {"shm", "", where + ": shared memory"};
  const std::string between = choose_engine(engine, engines);
  if (static_cast<std::size_t>(map.hosts) == host_ids.size()) return {between, between, where + ": " + between};
  return {"hier", between, where + ": shared memory inside each, " + between + " between them"};
}

}  // namespace lockstep
