#include "lockstep/core/kernels/job.h"

#include "lockstep/core/base/check.h"

namespace lockstep::kernels {

void check(const Job& job) {
  const Reduction& how = job.how;
  LS_REQUIRE(is_supported(how.op, how.dtype), "reduce: ", name_of(how.op), " is not defined for ", name_of(how.dtype),
             is_floating(how.dtype) ? "; bitwise operations take an integer dtype" : "; it takes a floating dtype");
  LS_REQUIRE(!job.sources.empty() && !job.destinations.empty(), "reduce: got ", job.sources.size(), " sources and ",
             job.destinations.size(), " destinations; it takes at least one of each");
  LS_REQUIRE(how.op != ReduceOp::kAvg || how.average_over > 0, "reduce: cannot average over ", how.average_over,
             "; the number of ranks is positive");
  LS_REQUIRE(how.op != ReduceOp::kPreMulSum || how.factors.size() == job.sources.size(), "reduce: ", name_of(how.op),
             " got ", how.factors.size(), " factors for ", job.sources.size(), " sources; it takes one a source");
}

void check_scale(DType dtype) {
  LS_REQUIRE(is_floating(dtype), "scale: got ", name_of(dtype), "; it takes f32, f64, f16 or bf16");
}

void check_convert(DType destination, DType source) {
  const auto narrow = [](DType dtype) { return dtype == DType::kFloat16 || dtype == DType::kBFloat16; };
  LS_REQUIRE((source == DType::kFloat32 && narrow(destination)) || (narrow(source) && destination == DType::kFloat32),
             "convert: cannot convert ", name_of(source), " to ", name_of(destination),
             "; it goes between f32 and f16 or bf16");
}

}  // namespace lockstep::kernels
