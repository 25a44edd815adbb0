#pragma once
// The files of the flight recorder (docs/formats/flight_record.md) as values.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "lockstep/core/base/error.h"

namespace lockstep::doctor {

/// Of a receive from whichever rank sends first.
inline constexpr int kAnyPeer = -1;

/// One operation as its rank saw it. `kind`, `dtype` and `op` are kept as they were written, so that a file of a newer
/// Lockstep, with kinds that this one does not know, can be read.
struct FlightOperation {
  std::uint64_t sequence = 0;  ///< 1, 2, 3 ... ; collectives and messages are numbered apart
  std::string kind;
  std::uint64_t count = 0;  ///< elements
  std::string dtype;
  std::string op;
  int root = 0;
  int peer = kAnyPeer;   ///< send and recv only
  std::int64_t tag = 0;  ///< send and recv only
  std::string label;
  std::int64_t started_ms = 0;   ///< the rank's coarse monotonic clock
  std::int64_t finished_ms = 0;  ///< when the rank saw that it was complete; 0: it never did
};

/// What one rank wrote when its communicator failed: its last operations, each list in order of sequence.
struct FlightRecord {
  std::string file;
  std::string group;
  std::string backend;
  int rank = 0;
  int world_size = 1;
  std::string failure;
  std::int64_t written_ms = 0;
  std::vector<FlightOperation> collectives;
  std::vector<FlightOperation> messages;
};

/// "all_reduce #1042 (262144 f32, sum, bucket 2)", "recv #7 (4 f32, tag 3, from rank 2)": as in the errors' texts.
std::string describe(const FlightOperation& operation);
/// The same without its number: what was called.
std::string describe_call(const FlightOperation& operation);
/// What all ranks must say alike in one collective. Counts of an all_to_all may differ, and labels.
bool same_call(const FlightOperation& a, const FlightOperation& b);

/// Throws CorruptionError that names `file` (the text's origin) and says what was expected there.
FlightRecord parse_flight_record(const std::string& file, std::string_view text);

/// What a folder holds.
struct FlightFolder {
  std::vector<FlightRecord> records;
  std::vector<CorruptionError> corrupt;  ///< the files that are not valid; the others are all the same in `records`
  std::vector<std::string> unreadable;   ///< texts of what the system refused
};

/// Reads the regular files flight_*.json of `directory`, in order of their names.
/// Throws UsageError where it is no folder or has no such file; SystemError where it can't be listed.
FlightFolder read_flight_folder(const std::string& directory);

}  // namespace lockstep::doctor
