#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "lockstep/core/comm/communicator.h"

namespace lockstep {

// Collectives on byte strings whose sizes the other ranks do not know: what torch.distributed calls objects. What the
// bytes mean is the caller's. Two operations each: the sizes, then the bytes. Order, failure and threads: as
// Communicator.

/// Everyone's blob, in rank order.
std::vector<std::string> all_gather_blobs(Communicator& communicator, std::string_view blob,
                                          const OpOptions& options = {});
/// Everyone's blob, in rank order, at `root`; empty elsewhere.
std::vector<std::string> gather_blobs(Communicator& communicator, std::string_view blob, int root,
                                      const OpOptions& options = {});
/// `root`'s blob; `blob` is not used elsewhere.
std::string broadcast_blob(Communicator& communicator, std::string_view blob, int root, const OpOptions& options = {});
/// blobs[rank] of `root`, which holds one for every rank (UsageError otherwise); not used elsewhere.
std::string scatter_blobs(Communicator& communicator, const std::vector<std::string>& blobs, int root,
                          const OpOptions& options = {});
/// Sends a blob that recv_blob() of `peer` receives; two messages of one tag.
void send_blob(Communicator& communicator, std::string_view blob, int peer, int tag = 0, const OpOptions& options = {});
/// The next blob of `source` (or kAnySource) with this tag, and where it came from.
std::pair<std::string, int> recv_blob(Communicator& communicator, int source, int tag = 0,
                                      const OpOptions& options = {});

}  // namespace lockstep
