#pragma once

#include <memory>
#include <string>

#include "lockstep/core/backend/backend.h"
#include "lockstep/core/backend/wire/transport.h"

namespace lockstep::wire {

/// Every operation of Backend over a transport. Operations progress in whoever calls and, where the transport may be
/// called by any thread, in one thread that all groups of the process share (background.h).
///
/// Memory: of a rank, whatever the message sizes: 8 headers of 2 KiB, and up to 1 MiB of small messages that it has
///         not taken yet, for each peer; up to kPiecesInFlight pieces of what the others contribute to a reduction
///         (plan.h). allocate() gives memory of this process: no path is faster with it.
/// Order:  sums are formed in rank order, so that results are the same bits on all ranks and on all backends.
///
/// Collective: the ranks measure the latency between them, until `deadline`.
std::unique_ptr<Backend> make_wire_backend(std::shared_ptr<Transport> transport, const std::string& group,
                                           Deadline deadline);

}  // namespace lockstep::wire
