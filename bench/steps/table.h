#pragma once

#include <iosfwd>
#include <vector>

#include "bench/steps/measure.h"

namespace lockstep::bench {

/// For people: the medians over the rounds of what rows() of run_job say.
void print_table(std::ostream& out, const std::vector<Json>& rows);

}  // namespace lockstep::bench
