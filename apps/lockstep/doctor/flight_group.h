#pragma once
// The records of one group, side by side.

#include <cstdint>
#include <string>
#include <vector>

#include "apps/lockstep/doctor/flight_record.h"

namespace lockstep::doctor {

/// What the ranks of one communicator left. Groups of one name and different sizes are different groups.
struct FlightGroup {
  std::string name;
  int world_size = 1;
  std::vector<FlightRecord> records;  ///< at least one; one a rank, in order of rank
  std::vector<int> absent;            ///< ranks without a record
  std::vector<FlightRecord> spare;    ///< further records of a rank that is in `records`, which has the newest
  /// Whether times of different ranks may be compared: the files were written within an hour, and no operation that
  /// takes all ranks was finished by one before another began it.
  bool same_clock = true;
  std::int64_t gave_up_ms = 0;  ///< when the first of them wrote its record

  const FlightRecord* record_of(int rank) const;
  /// "group world (4 ranks)".
  std::string title() const;
  /// False for what a rank began only after another had given up: it took no part in what went wrong.
  bool in_time(const FlightOperation& operation) const;
};

/// Groups in the order in which they failed; where their times can't be compared, in order of their names.
std::vector<FlightGroup> flight_groups(std::vector<FlightRecord> records);

/// True for operations that no rank can finish before every rank has begun them.
bool takes_all_ranks(const FlightOperation& operation);

/// "rank 2", "ranks 0, 1, 4-9"; `ranks` ascend. At most 8 numbers or ranges, then how many more.
std::string rank_list(const std::vector<int>& ranks);
/// "14.2 s", "30 ms".
std::string duration_text(std::int64_t milliseconds);

}  // namespace lockstep::doctor
