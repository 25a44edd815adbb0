#include "apps/lockstep/doctor/blas_kernels.h"

#include <dlfcn.h>

#include <algorithm>
#include <array>

namespace lockstep::doctor {
namespace {

// OpenBLAS's names (driver/others/dynamic.c of 0.3.21) of its kernels for x86-64 without AVX2.
constexpr std::array<std::string_view, 16> kWithoutAvx2 = {
    "Prescott",     "Banias",    "Atom",    "Core2", "Penryn",      "Dunnington", "Nehalem",   "Athlon",
    "Opteron_SSE3", "Barcelona", "Opteron", "Nano",  "Sandybridge", "Bobcat",     "Bulldozer", "Piledriver",
};

}  // namespace

std::string blas_kernels() {
  // Never closed: its threads may have begun.
  void* const library = ::dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return "";
  const auto name = reinterpret_cast<const char* (*)()>(::dlsym(library, "openblas_get_corename"));
  return name == nullptr ? "" : name();
}

std::string better_blas_kernels(std::string_view chosen, std::string_view simd) {
  if (std::ranges::find(kWithoutAvx2, chosen) == kWithoutAvx2.end()) return "";
  if (simd.starts_with("AVX3")) return "SkylakeX";
  return simd == "AVX2" ? "Haswell" : "";
}

}  // namespace lockstep::doctor
