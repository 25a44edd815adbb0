#include "lockstep/core/kernels/job.h"

#include "lockstep/core/base/check.h"

namespace lockstep::kernels {

void check(const Job& job) {
  LS_REQUIRE(
      is_supported(job.op, job.dtype), "reduce: ", name_of(job.op), " is not defined for ", name_of(job.dtype),
      is_floating(job.dtype) ? "; bitwise operations take an integer dtype" : "; averages take a floating dtype");
  LS_REQUIRE(job.source_count > 0 && job.destination_count > 0, "reduce: got ", job.source_count, " sources and ",
             job.destination_count, " destinations; it takes at least one of each");
  LS_REQUIRE(job.op != ReduceOp::kAvg || job.average_over > 0, "reduce: cannot average over ", job.average_over,
             "; the number of ranks is positive");
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
