#pragma once
// Who was missing in what: from records to findings. Pure: reads no file, asks no clock.

#include <cstdint>
#include <string>
#include <vector>

#include "apps/lockstep/doctor/flight_group.h"

namespace lockstep::doctor {

/// One thing that the records say.
struct Finding {
  /// mismatch never_started late unfinished no_record unmatched_message aborted different_runs different_clocks
  /// spare_record nothing (docs/formats/flight_record.md says what each means).
  std::string finding;
  std::string group;
  int world_size = 0;
  std::vector<int> ranks;      ///< those to look at
  std::vector<int> waiting;    ///< those that waited for them
  std::string kind;            ///< of the operation; "" where it is about none
  std::uint64_t sequence = 0;  ///< of the operation; 0 where it is about none
  std::string text;            ///< a sentence, without the group
};

/// The findings about one group, the most telling first; never empty.
std::vector<Finding> diagnose(const FlightGroup& group);

}  // namespace lockstep::doctor
