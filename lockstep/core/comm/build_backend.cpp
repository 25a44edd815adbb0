#include "lockstep/core/comm/build_backend.h"

#include "lockstep/core/backend/hier/hier_backend.h"
#include "lockstep/core/backend/meeting.h"
#include "lockstep/core/backend/mpi/loader.h"
#include "lockstep/core/backend/mpi/mpi_transport.h"
#include "lockstep/core/backend/self/self_backend.h"
#include "lockstep/core/backend/shm/shm_backend.h"
#include "lockstep/core/backend/wire/wire_backend.h"
#include "lockstep/core/base/check.h"
#include "lockstep/core/base/environment.h"
#ifdef LOCKSTEP_HAS_GLOO
#include "lockstep/core/backend/gloo/gloo_transport.h"
#endif

namespace lockstep {
namespace {

std::shared_ptr<wire::Transport> make_transport(const std::string& engine, Store& keys, const Meeting& meeting,
                                                const CommunicatorOptions& options) {
  if (engine == "mpi") {
    // MPI itself waits without a bound for the members of a group: they meet here first.
    exchange_values(keys, meeting, "mpi", "");
    return mpi::make_mpi_transport(meeting, {options.network.mpi, options.global_ranks});
  }
#ifdef LOCKSTEP_HAS_GLOO
  return make_gloo_transport(keys, meeting, {options.network.interface, options.network.route_to, {}});
#else
  LS_CHECK(false, "no engine '", engine, "'");
#endif
}

}  // namespace

Engines available_engines() {
  Engines engines;
#ifdef LOCKSTEP_HAS_GLOO
  engines.gloo = true;
#endif
  engines.mpi = mpi::has_module();
  engines.launched_by_mpi = environment_string("OMPI_COMM_WORLD_SIZE") || environment_string("PMI_SIZE");
  return engines;
}

BuiltBackend build_backend(const std::shared_ptr<Store>& store, const Meeting& meeting,
                           const CommunicatorOptions& options) {
  const auto keys = make_prefix_store(store, options.backend + "/" + meeting.group);
  const BackendChoice choice = choose_backend(options.backend, options.network.engine, meeting.world_size,
                                              options.host_ids, available_engines());
  BuiltBackend built{nullptr, choice.reason};
  if (choice.backend == "self") {
    built.backend = make_self_backend();
  } else if (choice.backend == "shm") {
    built.backend = make_shm_backend(*keys, meeting);
  } else {
    const auto transport = make_transport(choice.engine, *keys, meeting, options);
    built.backend = choice.backend == "hier" ? make_hier_backend(*keys, meeting, options.host_ids, transport)
                                             : wire::make_wire_backend(transport, meeting.group, meeting.deadline);
  }
  return built;
}

}  // namespace lockstep
