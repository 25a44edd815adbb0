#pragma once
// Element-wise reductions and conversions on raw memory. SIMD is chosen at run time (Highway); a scalar twin of every
// kernel is the specification, and equals it bit for bit: sums run in the order of `sources`, products with a scale
// are rounded separately (no fused multiply-add).

#include <cstddef>
#include <cstdint>
#include <span>

#include "lockstep/core/base/dtype.h"

namespace lockstep::kernels {

/// How sources are combined.
struct Reduction {
  DType dtype = DType::kFloat32;
  ReduceOp op = ReduceOp::kSum;
  int average_over = 1;                  ///< kAvg: the number that the sum is divided by; other operations ignore it
  std::span<const double> factors = {};  ///< kPreMulSum: one a source; other operations ignore them
};

/// Combines `sources` and writes the result to every destination: equal copies ("push" into every peer's buffer).
///
/// out[i] = scale(sources[0][i] op sources[1][i] op ...), for i in [0, count), stored to every destination.
///
/// Order:   left to right over `sources`, whatever the vector width, so all ranks compute equal bits.
/// Units:   `count` is elements of `dtype`. f16 and bf16 are combined in f32 and rounded once at the end.
/// kAvg:    the sum times 1/`average_over` (computed in the accumulation type), applied once at the end.
///          Division by multiplication: torch's DDP does the same.
/// kPreMulSum: factors[0] * sources[0][i] + factors[1] * sources[1][i] + ...; each factor and each product is rounded
///          to the accumulation type (f64 for f64, f32 for the others) before it is used.
/// Alias:   a destination may be identical to any source (in place); partial overlap is not allowed.
/// Integers wrap around. min/max propagate NaN as torch does (NaN if any input is NaN); of 0.0 and -0.0 the first in
/// the order of `sources` stays. kBool: sum = or, product = and.
/// NaN:     every NaN written is the canonical quiet one (0x7fc00000 in f32); its bits otherwise depend on the
///          compiler's operand order and on the processor.
/// Cost:    one pass; 2 sources and 2 destinations run at the speed of memory. Addresses need no alignment.
/// Throws:  UsageError where is_supported(op, dtype) is false, where there is no source or no destination, for an
///          average over fewer than one, and for a kPreMulSum of more or fewer factors than sources.
void reduce(std::span<const void* const> sources, std::span<void* const> destinations, std::size_t count,
            const Reduction& how);

/// data[i] *= factor, rounded once; floating dtypes only (UsageError otherwise). The factor is first rounded to the
/// type that the product is computed in: f64 for f64, f32 for the others.
void scale(void* data, std::size_t count, DType dtype, double factor);

/// Copies `nbytes` (non-overlapping).
void copy(void* destination, const void* source, std::size_t nbytes);

/// destination[i] = source[i] converted with round-to-nearest-even; between f32 and f16/bf16 (either way; UsageError
/// otherwise). No overlap.
void convert(void* destination, DType destination_dtype, const void* source, DType source_dtype, std::size_t count);

/// The instruction set in use: "AVX3", "AVX2", "SSE4", "NEON", ...
const char* instruction_set();

namespace scalar {
/// The specification: plain loops, one element at a time.
void reduce(std::span<const void* const> sources, std::span<void* const> destinations, std::size_t count,
            const Reduction& how);
void scale(void* data, std::size_t count, DType dtype, double factor);
void convert(void* destination, DType destination_dtype, const void* source, DType source_dtype, std::size_t count);
}  // namespace scalar

}  // namespace lockstep::kernels
