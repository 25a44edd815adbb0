#pragma once
// Internal: never included from a public header.

#include <string>

namespace lockstep::io {

/// Changes with every boot of every host: equal on two ranks exactly where they run under one kernel.
std::string boot_id();

std::string host_name();

}  // namespace lockstep::io
