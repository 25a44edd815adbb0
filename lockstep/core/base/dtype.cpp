#include "lockstep/core/base/dtype.h"

#include <array>

#include "lockstep/core/base/check.h"

namespace lockstep {
namespace {

constexpr std::array<std::string_view, kDTypeCount> kDTypeNames = {"f32", "f64", "f16", "bf16", "i8",
                                                                   "u8",  "i32", "i64", "bool"};
constexpr std::array<std::string_view, kReduceOpCount> kReduceOpNames = {"sum",  "avg", "product", "min",       "max",
                                                                         "band", "bor", "bxor",    "premul_sum"};

template <typename Enum, std::size_t n>
Enum parse(const std::array<std::string_view, n>& names, std::string_view name, const char* what) {
  std::string known;
  for (std::size_t i = 0; i < n; ++i) {
    if (names[i] == name) return static_cast<Enum>(i);
    known += (i == 0 ? "" : " ") + std::string(names[i]);
  }
  throw UsageError(base::cat("unknown ", what, " '", name, "'; expected one of: ", known));
}

}  // namespace

std::string_view name_of(DType dtype) noexcept {
  const auto index = static_cast<std::size_t>(dtype);
  return index < kDTypeNames.size() ? kDTypeNames[index] : "?";
}
std::string_view name_of(ReduceOp op) noexcept {
  const auto index = static_cast<std::size_t>(op);
  return index < kReduceOpNames.size() ? kReduceOpNames[index] : "?";
}
DType parse_dtype(std::string_view name) { return parse<DType>(kDTypeNames, name, "dtype"); }
ReduceOp parse_reduce_op(std::string_view name) { return parse<ReduceOp>(kReduceOpNames, name, "reduction"); }

}  // namespace lockstep
