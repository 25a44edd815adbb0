#pragma once

#include <iosfwd>
#include <string>
#include <string_view>
#include <vector>

#include "apps/lockstep/doctor/flight_diagnosis.h"

namespace lockstep::doctor {

/// One finding as a line of JSON: {"finding":...,"group":...,"world_size":...,"ranks":[...],"waiting":[...],
/// "operation":...,"sequence":...,"text":...}.
std::string to_json(const Finding& finding);
/// {"finding":"corrupt_file","file":...,"offset":...,"text":...}.
std::string to_json(const CorruptionError& corrupt);
/// {"finding":"unreadable_file","text":...}.
std::string unreadable_to_json(const std::string& text);

/// A sentence a line: "group world (4 ranks): rank 2 never started ...".
void print_findings(std::ostream& out, const FlightGroup& group, const std::vector<Finding>& findings);
/// A row a rank: the last operation that it saw complete, what it has in flight and for how long, why it failed.
void print_table(std::ostream& out, const FlightGroup& group);

/// `text` on one line of a terminal: control characters become blanks, and what is beyond `columns` code points is cut
/// off (0: nothing is).
std::string printable(std::string_view text, std::size_t columns = 0);

}  // namespace lockstep::doctor
