#pragma once
// What each stage of an operation does to memory. See Note [Ticks] in layout.h and docs/algorithms.md.

#include <cstdint>

#include "lockstep/core/backend/shm/operation.h"
#include "lockstep/core/backend/shm/segment.h"

namespace lockstep::shm {

/// The stages, for piece `index` of `operation` which is the group's tick `tick`.
/// post: what peers will read is put in place. Needs the slot and the arrival line of the tick to be free.
void post(const Segment& segment, const Operation& operation, std::uint64_t index, std::uint64_t tick);
/// work: all ranks have posted. Throws UsageError where a peer's buffer is not mapped here, MismatchError where sizes
/// that only two ranks know of do not fit together.
void work(const Segment& segment, const Operation& operation, std::uint64_t index, std::uint64_t tick);
/// finish: all peers have worked (only where the plan waits for that).
void finish(const Segment& segment, const Operation& operation, std::uint64_t index, std::uint64_t tick);

/// Completes an open plan, when all ranks have posted its first tick. Throws as work().
void close_plan(const Segment& segment, Operation& operation, std::uint64_t tick);

}  // namespace lockstep::shm
