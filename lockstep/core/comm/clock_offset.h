#pragma once
// How clocks of different hosts compare. Internal: never included from a public header.

#include <cstdint>

#include "lockstep/core/comm/communicator.h"

namespace lockstep {

/// What a clock shows beyond rank 0's at the same moment.
struct ClockOffset {
  std::int64_t ahead_ns = 0;
  std::int64_t error_ns = 0;  ///< the truth is at most so far from it, either way

  friend bool operator==(const ClockOffset&, const ClockOffset&) = default;
};

/// What one question says: asked when the own clock showed `asked_ns`, answered with what rank 0's showed, and the
/// answer was here after `round_trip_ns`. Cristian's algorithm: rank 0 read its clock half a round trip ago, give or
/// take that half. Pure. Source: Cristian, "Probabilistic clock synchronization" (1989).
ClockOffset offset_of_question(std::int64_t asked_ns, std::int64_t answer_ns, std::int64_t round_trip_ns);

/// Collective. Compares each rank's clock, as `read_clock_ns` reads it, with rank 0's, by messages of `tag`; of several
/// questions the one with the least error counts. Rank 0: no offset, no error. Throws what the communicator throws.
ClockOffset measure_clock_offset(Communicator& communicator, std::int64_t (*read_clock_ns)(), int tag);

}  // namespace lockstep
