#pragma once
// Internal. A reduction as it crosses from the dispatcher to one instruction set, and what callers may ask for.

#include <cstddef>

#include "lockstep/core/base/dtype.h"

namespace lockstep::kernels {

struct Job {
  const void* const* sources;
  std::size_t source_count;
  void* const* destinations;
  std::size_t destination_count;
  std::size_t count;
  DType dtype;
  ReduceOp op;
  int average_over;
};

/// Each throws UsageError that names what was asked for and what is possible.
void check(const Job& job);
void check_scale(DType dtype);
void check_convert(DType destination, DType source);

}  // namespace lockstep::kernels
