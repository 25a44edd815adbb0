#pragma once
// Internal. A reduction as it crosses from the dispatcher to one instruction set, and what callers may ask for.

#include <cstddef>
#include <span>

#include "lockstep/core/base/dtype.h"
#include "lockstep/core/kernels/kernels.h"

namespace lockstep::kernels {

struct Job {
  std::span<const void* const> sources;
  std::span<void* const> destinations;
  std::size_t count;
  const Reduction& how;  ///< the caller's: a copy costs a small reduction more than its sum
};

/// Each throws UsageError that names what was asked for and what is possible.
void check(const Job& job);
void check_scale(DType dtype);
void check_convert(DType destination, DType source);

}  // namespace lockstep::kernels
