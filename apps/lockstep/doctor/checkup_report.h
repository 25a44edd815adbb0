#pragma once

#include <iosfwd>
#include <string>
#include <vector>

#include "apps/lockstep/doctor/checkup.h"

namespace lockstep::doctor {

/// One page: what carries the bytes, the hosts, the ranks, the links, and what is wrong. Long tables are cut, with a
/// line that says so.
void print_checkup(std::ostream& out, const Checkup& checkup, const std::vector<Problem>& problems);

/// All of it as one JSON object: {"backend":..., "hosts":[...], "ranks":[...], "links":[...], "problems":[...]}.
std::string to_json(const Checkup& checkup, const std::vector<Problem>& problems);

}  // namespace lockstep::doctor
