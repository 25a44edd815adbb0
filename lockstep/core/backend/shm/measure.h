#pragma once
// What moving data between two ranks costs on this machine, measured when a process forms its first group.

#include "lockstep/core/backend/shm/plan.h"
#include "lockstep/core/base/deadline.h"

namespace lockstep::shm {

class Segment;

/// On rank 0, whose group has a CPU for each rank: what an earlier group of this process measured, or what is measured
/// now with rank 1, in about 0.1 ms. Where rank 1 does not come to run within 5 ms the built-in constants stand.
Constants known_constants(Segment& segment);

/// On rank 1: does its part of the measurement until rank 0 says what the constants are, for at most 20 ms.
void help_to_measure(Segment& segment, Deadline deadline);

}  // namespace lockstep::shm
