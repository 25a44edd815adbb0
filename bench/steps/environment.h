#pragma once

#include <nlohmann/json.hpp>

namespace lockstep::bench {

/// What decides about the speed of the products and of memory, as this rank found it: the policy for freed memory,
/// its CPUs, the BLAS library that is loaded, and the variables that change any of them.
nlohmann::ordered_json describe_environment(bool freed_memory_is_kept);

}  // namespace lockstep::bench
