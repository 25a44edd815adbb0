#pragma once
// Inputs whose reductions are exact in every dtype, and what they must come to, computed one element at a time.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "lockstep/core/base/dtype.h"
#include "lockstep/core/kernels/kernels.h"

namespace lockstep::testing {

/// What rank contributes at element i: 1 or 2 for products (so that eight of them fit an int8), small integers else.
inline std::int64_t contribution(int rank, std::size_t i, ReduceOp op) {
  const auto mixed = static_cast<std::int64_t>((i * 7 + static_cast<std::size_t>(rank) * 5) % 11);
  if (op == ReduceOp::kProduct) return 1 + mixed % 2 * (rank < 6 ? 1 : 0);
  return mixed;
}

/// The reduction over all ranks; `dtype` matters for bool (sum = any, product = all).
inline double expected(std::size_t i, int world, ReduceOp op, DType dtype) {
  std::int64_t value = contribution(0, i, op);
  if (dtype == DType::kBool) value = value != 0;
  for (int rank = 1; rank < world; ++rank) {
    std::int64_t next = contribution(rank, i, op);
    if (dtype == DType::kBool) next = next != 0;
    switch (op) {
      case ReduceOp::kSum:
      case ReduceOp::kAvg: value += next; break;
      case ReduceOp::kProduct: value *= next; break;
      case ReduceOp::kMin: value = std::min(value, next); break;
      case ReduceOp::kMax: value = std::max(value, next); break;
      case ReduceOp::kBitAnd: value &= next; break;
      case ReduceOp::kBitOr: value |= next; break;
      case ReduceOp::kBitXor: value ^= next; break;
    }
  }
  if (dtype == DType::kBool && op == ReduceOp::kSum) value = value != 0;
  return static_cast<double>(value);
}

/// Writes `value` as element i of a buffer of `dtype`.
inline void put(void* data, std::size_t i, DType dtype, double value) {
  auto* const at = static_cast<std::byte*>(data) + i * size_of(dtype);
  const auto store = [at](auto typed) { std::memcpy(at, &typed, sizeof typed); };
  switch (dtype) {
    case DType::kFloat32: return store(static_cast<float>(value));
    case DType::kFloat64: return store(value);
    case DType::kFloat16:
    case DType::kBFloat16: {
      const auto single = static_cast<float>(value);
      return kernels::convert(at, dtype, &single, DType::kFloat32, 1);
    }
    case DType::kInt8: return store(static_cast<std::int8_t>(value));
    case DType::kUInt8: return store(static_cast<std::uint8_t>(value));
    case DType::kInt32: return store(static_cast<std::int32_t>(value));
    case DType::kInt64: return store(static_cast<std::int64_t>(value));
    case DType::kBool: return store(static_cast<std::uint8_t>(value != 0));
  }
}

template <typename T>
T load(const void* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

inline double get(const void* data, std::size_t i, DType dtype) {
  const auto* const at = static_cast<const std::byte*>(data) + i * size_of(dtype);
  switch (dtype) {
    case DType::kFloat32: return load<float>(at);
    case DType::kFloat64: return load<double>(at);
    case DType::kFloat16:
    case DType::kBFloat16: {
      float single = 0;
      kernels::convert(&single, DType::kFloat32, at, dtype, 1);
      return single;
    }
    case DType::kInt8: return load<std::int8_t>(at);
    case DType::kUInt8: return load<std::uint8_t>(at);
    case DType::kInt32: return load<std::int32_t>(at);
    case DType::kInt64: return static_cast<double>(load<std::int64_t>(at));
    case DType::kBool: return load<std::uint8_t>(at);
  }
  return 0;
}

/// The average, rounded to the dtype as the kernels round it.
inline double rounded(double value, DType dtype) {
  std::uint64_t cell = 0;
  put(&cell, 0, dtype, value);
  return get(&cell, 0, dtype);
}

}  // namespace lockstep::testing
