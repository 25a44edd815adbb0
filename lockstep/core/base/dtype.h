#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace lockstep {

/// Element types of raw buffers. The values are part of what ranks compare with each other: append only.
enum class DType : std::uint8_t {
  kFloat32 = 0,
  kFloat64 = 1,
  kFloat16 = 2,   ///< IEEE binary16; reductions add in float32
  kBFloat16 = 3,  ///< upper half of a float32; reductions add in float32
  kInt8 = 4,
  kUInt8 = 5,
  kInt32 = 6,
  kInt64 = 7,
  kBool = 8,  ///< one byte, 0 or 1; sum is "any", product is "all", as in torch
};
inline constexpr int kDTypeCount = 9;

/// How elements of different ranks are combined.
/// kAvg is the sum divided by the number of ranks; kPreMulSum is the sum after each rank's elements are multiplied by
/// that rank's factor (NCCL's ncclRedOpCreatePreMulSum, torch's _make_nccl_premul_sum). Integer dtypes reject both,
/// bitwise operations reject floating dtypes.
enum class ReduceOp : std::uint8_t {
  kSum = 0,
  kAvg = 1,
  kProduct = 2,
  kMin = 3,
  kMax = 4,
  kBitAnd = 5,
  kBitOr = 6,
  kBitXor = 7,
  kPreMulSum = 8,
};
inline constexpr int kReduceOpCount = 9;

/// Bytes of one element.
constexpr std::size_t size_of(DType dtype) noexcept {
  switch (dtype) {
    case DType::kFloat64:
    case DType::kInt64: return 8;
    case DType::kFloat32:
    case DType::kInt32: return 4;
    case DType::kFloat16:
    case DType::kBFloat16: return 2;
    case DType::kInt8:
    case DType::kUInt8:
    case DType::kBool: return 1;
  }
  return 0;
}

constexpr bool is_floating(DType dtype) noexcept {
  return dtype == DType::kFloat32 || dtype == DType::kFloat64 || dtype == DType::kFloat16 || dtype == DType::kBFloat16;
}

/// True where `op` is defined for `dtype` (see ReduceOp).
constexpr bool is_supported(ReduceOp op, DType dtype) noexcept {
  if (op == ReduceOp::kAvg || op == ReduceOp::kPreMulSum) return is_floating(dtype);
  if (op >= ReduceOp::kBitAnd) return !is_floating(dtype);
  return true;
}

/// Short names used on command lines and in messages: f32 f64 f16 bf16 i8 u8 i32 i64 bool.
std::string_view name_of(DType dtype) noexcept;
/// sum avg product min max band bor bxor premul_sum.
std::string_view name_of(ReduceOp op) noexcept;

/// The inverse of name_of. Throws UsageError that lists the valid names.
DType parse_dtype(std::string_view name);
ReduceOp parse_reduce_op(std::string_view name);

}  // namespace lockstep
