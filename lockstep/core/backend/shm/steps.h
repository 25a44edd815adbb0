#pragma once
// What each stage of an operation does to memory. See Note [Ticks] in layout.h and docs/algorithms.md.

#include <cstdint>

#include "lockstep/core/backend/shm/plan.h"
#include "lockstep/core/backend/shm/segment.h"

namespace lockstep::shm {

/// An operation in flight on this rank.
struct Operation {
  Collective collective;
  Plan plan;
  std::uint64_t first_tick = 0;
  std::uint64_t after = 0;  ///< may post once operations up to this sequence number are finished here
  SharedAddress input;      ///< used by Path::kDirect
  SharedAddress output;
};

/// The stages, for piece `index` of `operation` which is the group's tick `tick`.
/// post: what peers will read is put in place. Needs the slot and the arrival line of the tick to be free.
void post(const Segment& segment, const Operation& operation, std::uint64_t index, std::uint64_t tick);
/// work: all ranks have posted. Throws UsageError where a peer's buffer is not mapped here.
void work(const Segment& segment, const Operation& operation, std::uint64_t index, std::uint64_t tick);
/// finish: all peers have worked (only where the plan waits for that).
void finish(const Segment& segment, const Operation& operation, std::uint64_t index, std::uint64_t tick);

}  // namespace lockstep::shm
