#pragma once

#include <string>

namespace lockstep::doctor {

/// What this program was built from and how: version, the repository's state when it was configured, compiler, kind of
/// build, backends. Ranks that differ in it may not understand each other.
std::string build_id();

}  // namespace lockstep::doctor
