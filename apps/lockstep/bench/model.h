#pragma once

#include <cstddef>
#include <optional>

#include "apps/lockstep/bench/limits.h"
#include "apps/lockstep/bench/options.h"

namespace lockstep::bench {

enum class MemoryKind { kBackend, kUser };

/// The least time (us) that the machine allows for one collective on a vector of `bytes`, by the best of the plans that
/// the kind of memory admits; nothing where it was not measured or the ranks exceed the CPUs.
///
/// L = hand-off, A = remote add, W = remote write, S = bytes, p = ranks, D = memory traffic of both cores together:
///   barrier                       L
///   all_reduce, backend memory    least of  L + S(p-1)/A                  (flat)
///                                           2L + S(p-1)/p / A             (each reduces a chunk, pushes the result)
///   all_reduce, user memory       least of  L + S/W + S(p-1)/A            (flat, copied)
///                                           2L + S(p-1)/p (1/W + 2/A)     (copy out, reduce a chunk, copy in)
///   reduce_scatter, all_gather    L + S(p-1)/p / A, and with user memory also a write of what the others read
///   broadcast                     L + S/A, user memory: L + S/min(A, W), pipelined
/// Vectors of all ranks together beyond the last cache level cost at least 2pS/D: each is read and written once.
std::optional<double> model_us(const SweepOptions& options, MemoryKind memory, std::size_t bytes,
                               const MachineLimits& limits);

}  // namespace lockstep::bench
