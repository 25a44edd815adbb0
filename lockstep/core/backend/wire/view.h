#pragma once
// Some ranks of a transport, as a group of their own: one set of connections serves several groups.

#include <memory>
#include <vector>

#include "lockstep/core/backend/wire/transport.h"

namespace lockstep::wire {

/// The ranks `members` of `transport` (this rank among them, in the order of the new ranks), on channels of their own:
/// `index` 0, 1, 2, 3 picks which. Groups that share a pair of ranks need different indices.
/// Thread safety: as the transport's.
std::shared_ptr<Transport> make_view(std::shared_ptr<Transport> transport, std::vector<int> members, int index);

}  // namespace lockstep::wire
