#pragma once

#include <string>
#include <string_view>

namespace lockstep::doctor {

/// The kernels that OpenBLAS chose for this CPU ("Haswell", "SkylakeX", ...); empty where the library is not there.
/// Loads it.
std::string blas_kernels();

/// The kernels to ask of OpenBLAS (OPENBLAS_CORETYPE) where those that it chose know nothing of the vector instructions
/// this CPU has (`simd`, as kernels::instruction_set() names them); empty where it chose well. A release of OpenBLAS
/// that is older than the CPU falls back to what a CPU of 2004 had. Pure.
std::string better_blas_kernels(std::string_view chosen, std::string_view simd);

}  // namespace lockstep::doctor
