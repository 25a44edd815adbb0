#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "apps/lockstep-train/options.h"
#include "lockstep/core/base/environment.h"

namespace lockstep::app {

/// Whether this process has to become `lockstep run`: true where so many workers were asked for and nobody started
/// them yet. UsageError where a launcher started another number of workers on this host.
bool must_launch(std::int64_t nproc_per_node, const RankEnvironment& environment);

/// What to execute instead: lockstep run --nproc-per-node N -- PROGRAM ARGUMENTS (without the flag).
std::vector<std::string> launch_command(const std::string& launcher, const Options& options, const std::string& program,
                                        const std::vector<std::string>& arguments);

/// Becomes `lockstep run`, which starts the workers. The launcher is looked for beside this program, in the build tree
/// and in PATH. Returns only by throwing UsageError (no launcher) or SystemError.
[[noreturn]] void launch(const Options& options, const std::vector<std::string>& arguments);

}  // namespace lockstep::app
