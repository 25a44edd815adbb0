#include "lockstep/core/comm/build_backend.h"

#include "lockstep/core/backend/hier/hier_backend.h"
#include "lockstep/core/backend/meeting.h"
#include "lockstep/core/backend/self/self_backend.h"
#include "lockstep/core/backend/shm/shm_backend.h"
#include "lockstep/core/backend/wire/wire_backend.h"
#include "lockstep/core/base/check.h"
#include "lockstep/core/base/environment.h"
#include "lockstep/core/base/host.h"
#ifdef LOCKSTEP_HAS_GLOO
#include "lockstep/core/backend/gloo/gloo_transport.h"
#endif

namespace lockstep {
namespace {

std::shared_ptr<wire::Transport> make_transport(const std::string& engine, Store& keys, const Meeting& meeting,
                                                const CommunicatorOptions& options) {
#ifdef LOCKSTEP_HAS_GLOO
  if (engine == "gloo") {
    return make_gloo_transport(keys, meeting, {options.network.interface, options.network.route_to, {}});
  }
#endif
  static_cast<void>(keys);
  static_cast<void>(meeting);
  static_cast<void>(options);
  LS_CHECK(false, "no engine '", engine, "'");
  return nullptr;
}

}  // namespace

Engines available_engines() {
  Engines engines;
#ifdef LOCKSTEP_HAS_GLOO
  engines.gloo = true;
#endif
  return engines;
}

BuiltBackend build_backend(const std::shared_ptr<Store>& store, const Meeting& meeting,
                           const CommunicatorOptions& options, const std::string& host_id) {
  const auto keys = make_prefix_store(store, options.backend + "/" + meeting.group);
  const bool needs_hosts = options.backend == "hier" || (options.backend == "auto" && meeting.world_size > 1);
  std::vector<std::string> host_ids;
  if (needs_hosts) {
    host_ids = exchange_values(*keys, meeting, "host", host_id.empty() ? base::own_host().id : host_id);
  }
  const BackendChoice choice =
      choose_backend(options.backend, options.network.engine, meeting.world_size, host_ids, available_engines());
  BuiltBackend built{nullptr, choice.reason};
  if (choice.backend == "self") {
    built.backend = make_self_backend();
  } else if (choice.backend == "shm") {
    built.backend = make_shm_backend(*keys, meeting);
  } else {
    const auto transport = make_transport(choice.engine, *keys, meeting, options);
    built.backend = choice.backend == "hier" ? make_hier_backend(*keys, meeting, host_ids, transport)
                                             : wire::make_wire_backend(transport, meeting.group, meeting.deadline);
  }
  return built;
}

}  // namespace lockstep
