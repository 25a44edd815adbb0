#pragma once

#include <vector>

#include "apps/lockstep/doctor/flight_diagnosis.h"

namespace lockstep::doctor {

/// Sends and receives that waited for a counterpart which never came. Messages of one source, destination and tag keep
/// their order: the k-th receive takes the k-th send. Where a record no longer has its first messages, counting proves
/// nothing, and only a counterpart that is missing altogether is named.
std::vector<Finding> unmatched_messages(const FlightGroup& group);

}  // namespace lockstep::doctor
