#pragma once

#include <string>
#include <vector>

#include "lockstep/core/launch/job.h"

namespace lockstep {

/// `lockstep run` on what follows these two words. Returns the exit code: 0, the first failed worker's (128 + signal),
/// 130 after Ctrl-C, 1 where the system refuses (a port in use ...), 2 for a bad flag or program, before anything runs.
/// With --dry-run: 0, or 2 where something would keep the job from starting.
int run_command(const std::vector<std::string>& arguments);

/// What a command line of `lockstep run` asks for.
struct RunRequest {
  launch::JobOptions job;
  bool dry_run = false;
  bool json = false;
  std::string help;  ///< its text, where --help was asked for; then the rest is empty
};

/// Reads the flags and torchrun's PET_* variables. Throws UsageError with one line that names the flag, its value and
/// what was expected.
RunRequest parse_run_flags(const std::vector<std::string>& arguments);

}  // namespace lockstep
