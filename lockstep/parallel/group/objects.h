#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lockstep/core/comm/blobs.h"
#include "lockstep/parallel/group/process_group.h"

namespace lockstep {

// torch.distributed's collectives on objects. An object is a byte string whose size the other ranks do not know:
// C++ has no pickle, so what the bytes mean is the caller's (torch::save into a std::ostringstream, JSON, ...). Two
// operations each: see core/comm/blobs.h, which these are for a tensor group.

/// Everyone's object, in rank order.
inline std::vector<std::string> all_gather_object(ProcessGroup& group, std::string_view object,
                                                  const OpOptions& options = {}) {
  return all_gather_blobs(group.communicator(), object, options);
}

/// Everyone's object, in rank order, at `root`; empty elsewhere.
inline std::vector<std::string> gather_object(ProcessGroup& group, std::string_view object, int root,
                                              const OpOptions& options = {}) {
  return gather_blobs(group.communicator(), object, root, options);
}

/// `root`'s object; `object` is not used elsewhere.
inline std::string broadcast_object(ProcessGroup& group, std::string_view object, int root,
                                    const OpOptions& options = {}) {
  return broadcast_blob(group.communicator(), object, root, options);
}

/// objects[rank] of `root`, which has one for every rank; not used elsewhere.
inline std::string scatter_object(ProcessGroup& group, const std::vector<std::string>& objects, int root,
                                  const OpOptions& options = {}) {
  return scatter_blobs(group.communicator(), objects, root, options);
}

/// Sends an object that recv_object() of `peer` receives.
inline void send_object(ProcessGroup& group, std::string_view object, int peer, int tag = 0,
                        const OpOptions& options = {}) {
  send_blob(group.communicator(), object, peer, tag, options);
}

/// The next object of `source` (or kAnySource) with this tag, and the rank that it came from.
inline std::pair<std::string, int> recv_object(ProcessGroup& group, int source, int tag = 0,
                                               const OpOptions& options = {}) {
  return recv_blob(group.communicator(), source, tag, options);
}

}  // namespace lockstep
