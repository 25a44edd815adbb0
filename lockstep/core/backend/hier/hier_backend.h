#pragma once

#include <functional>
#include <memory>
#include <string>

#include "lockstep/core/backend/backend.h"
#include "lockstep/core/backend/wire/transport.h"
#include "lockstep/core/store/store.h"

namespace lockstep {

/// Shared memory inside a host, and an engine of the network between hosts: what the ranks of a host need from outside
/// comes in once, what they give goes out once, and all ranks of a host drive the wire at once (as many as the smallest
/// host has). Cut into segments, of which one is on the wire while another is inside the host.
///
/// Order:   sums are formed inside each host in rank order, then over the hosts: the same bits on all ranks, not always
///          those of one host.
/// Memory:  what shared memory and the network take; allocate() gives the former's. reduce and reduce_scatter take
///          kSegmentsInFlight + 1 segments more; all_gather and reduce_scatter a copy of the whole where the ranks of a
///          host do not follow one another.
/// Network: gather, scatter, all_to_all and messages go over the network's engine, also between ranks of one host.
///
/// `host_ids`: one a rank, equal where ranks share memory. `transport` connects all ranks.
/// Collective construction over keys of `store`, which must be fresh (one prefix a group).
std::unique_ptr<Backend> make_hier_backend(Store& store, const Meeting& meeting,
                                           const std::vector<std::string>& host_ids,
                                           std::shared_ptr<wire::Transport> transport);

}  // namespace lockstep
