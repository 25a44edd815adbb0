#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>

#include "lockstep/core/comm/communicator.h"

namespace lockstep {

struct SubgroupOptions {
  std::string name = {};                      ///< in messages; empty: made from the parent's name and the ranks
  std::optional<Duration> timeout = {};       ///< default deadline of its operations; nothing: the parent's
  std::optional<Duration> init_timeout = {};  ///< for all members to arrive; nothing: its `timeout`
};

/// A group of some ranks of `parent`, in the order of `ranks` (parent's ranks, no duplicates). Only the members call
/// it, each with the same list; members that make several groups make them in the same order. Ranks of the new group
/// are positions in the list.
///
/// Cost: one meeting of the members in the store; nothing while the group is idle, however many there are.
/// Throws UsageError where this rank is not in `ranks`, TimeoutError that names the members that never arrived.
std::shared_ptr<Communicator> new_group(Communicator& parent, std::span<const int> ranks,
                                        const SubgroupOptions& options = {});

/// Collective over `parent`: ranks of one `color` become a group, in the order of `key`, then of the parent's rank
/// (MPI_Comm_split). A negative color: this rank is in no group, and gets null.
std::shared_ptr<Communicator> split(Communicator& parent, int color, int key, const SubgroupOptions& options = {});

}  // namespace lockstep
