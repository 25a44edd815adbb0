#pragma once

#include <cstddef>
#include <optional>

#include "apps/lockstep/bench/limits.h"
#include "apps/lockstep/bench/options.h"

namespace lockstep::bench {

enum class MemoryKind { kBackend, kUser };

/// The time (us) that one collective on a vector of `bytes` is not expected to beat on this machine, by the best of the
/// plans that the kind of memory admits; nothing where it was not measured or the ranks exceed the CPUs.
///
/// L = hand-off, A = remote add, W = remote write, S = bytes, p = ranks, D = memory traffic of both cores together:
///   barrier                       L
///   all_reduce, reduce            least of  L + S(p-1)/A                  (flat)
///     in backend memory                     2L + S(p-1)/p / A             (each reduces a chunk, pushes the result)
///     in user memory              least of  L + S/W + S(p-1)/A            (flat, copied)
///                                           2L + S(p-1)/p (1/W + 2/A)     (copy out, reduce a chunk, copy in)
///   reduce_scatter, all_to_all    L + S(p-1)/p / A;  user memory: L + S(p-1)/p (1/A + 1/W)
///   all_gather                    L + S(p-1)/p / A;  user memory: L + S(p-1)/p / A + S/p / W
///   gather                        L + S(p-1)/p / A;  user memory the same, or L + S/p / W where that is more
///   scatter                       L + S/p / A;       user memory the same, or L + S(p-1)/p / W where that is more
///   broadcast                     least of  L + S/A  and  2L + S/p / A   (each takes a chunk and pushes it to all);
///                                 user memory: L + S/min(A, W), pipelined
///   sendrecv                      L + S/A;           user memory: L + S(1/A + 1/W)
/// With user memory each byte that another rank reads is first written where it can. Vectors of all ranks together
/// beyond the last cache level cost all_reduce at least 2pS/D: each is read and written once.
std::optional<double> model_us(const SweepOptions& options, MemoryKind memory, std::size_t bytes,
                               const MachineLimits& limits);

}  // namespace lockstep::bench
