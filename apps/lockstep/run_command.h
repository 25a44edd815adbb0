#pragma once

#include <string>
#include <vector>

#include "lockstep/core/launch/job.h"

namespace lockstep {

/// `lockstep run` on what follows these two words. Returns the exit code: 0, the first failed worker's (128 + signal),
/// 130 after Ctrl-C, 1 where the system refuses (a port in use ...), 2 for a bad flag or program, before anything runs.
int run_command(const std::vector<std::string>& arguments);

/// The job that the flags and torchrun's PET_* variables ask for. `help` is set instead where --help was asked for.
/// Throws UsageError with one line that names the flag, its value and what was expected.
launch::JobOptions parse_run_flags(const std::vector<std::string>& arguments, std::string& help);

}  // namespace lockstep
