#pragma once
// From what a group was asked for to its backend. Internal.

#include <memory>
#include <string>
#include <vector>

#include "lockstep/core/backend/backend.h"
#include "lockstep/core/comm/choose_backend.h"
#include "lockstep/core/comm/communicator.h"
#include "lockstep/core/store/store.h"

namespace lockstep {

struct BuiltBackend {
  std::unique_ptr<Backend> backend;
  std::string reason;  ///< BackendChoice::reason
};

/// Collective over the meeting's ranks; `options.host_ids` says where they are. Throws as choose_backend() and as the
/// backends do.
BuiltBackend build_backend(const std::shared_ptr<Store>& store, const Meeting& meeting,
                           const CommunicatorOptions& options);

/// What this build and process can use between hosts.
Engines available_engines();

}  // namespace lockstep
