// The specification: what the vector kernels compute, one element at a time.
#include <cmath>
#include <cstring>
#include <type_traits>

#include "lockstep/core/kernels/half.h"
#include "lockstep/core/kernels/job.h"
#include "lockstep/core/kernels/kernels.h"

namespace lockstep::kernels::scalar {
namespace {

/// How an element lies in memory (Storage) and what it is computed in (Value).
template <typename T>
struct Plain {
  using Storage = T;
  using Value = T;
  static Value widen(Storage stored) { return stored; }
  static Storage narrow(Value value) {
    if constexpr (std::is_floating_point_v<T>) return canonical(value);
    return value;
  }
};

struct Half {
  using Storage = std::uint16_t;
  using Value = float;
  static Value widen(Storage stored) { return float_from_half(stored); }
  static Storage narrow(Value value) { return half_from_float(value); }
};

struct Bfloat {
  using Storage = std::uint16_t;
  using Value = float;
  static Value widen(Storage stored) { return float_from_bfloat(stored); }
  static Storage narrow(Value value) { return bfloat_from_float(value); }
};

/// Memory need not be aligned.
template <class Format>
typename Format::Value load(const void* base, std::size_t i) {
  typename Format::Storage stored;
  std::memcpy(&stored, static_cast<const char*>(base) + i * sizeof stored, sizeof stored);
  return Format::widen(stored);
}

template <class Format>
void store(typename Format::Value value, void* base, std::size_t i) {
  const typename Format::Storage stored = Format::narrow(value);
  std::memcpy(static_cast<char*>(base) + i * sizeof stored, &stored, sizeof stored);
}

template <typename T>
bool is_nan(T value) {
  if constexpr (std::is_floating_point_v<T>) return std::isnan(value);
  return false;
}

/// Of equal values the first stays; a NaN, once taken, stays.
template <typename T>
T minimum(T a, T b) {
  return b < a || is_nan(b) ? b : a;
}
template <typename T>
T maximum(T a, T b) {
  return b > a || is_nan(b) ? b : a;
}

template <typename T>
T combine_floating(ReduceOp op, T a, T b) {
  switch (op) {
    case ReduceOp::kProduct: return a * b;
    case ReduceOp::kMin: return minimum(a, b);
    case ReduceOp::kMax: return maximum(a, b);
    default: return a + b;
  }
}

template <typename T>
T combine_integer(ReduceOp op, T a, T b) {
  // Unsigned and at least as wide as int, so that it wraps around without overflowing.
  const auto wide_a = static_cast<std::uint64_t>(a);
  const auto wide_b = static_cast<std::uint64_t>(b);
  switch (op) {
    case ReduceOp::kProduct: return static_cast<T>(wide_a * wide_b);
    case ReduceOp::kMin: return minimum(a, b);
    case ReduceOp::kMax: return maximum(a, b);
    case ReduceOp::kBitAnd: return static_cast<T>(wide_a & wide_b);
    case ReduceOp::kBitOr: return static_cast<T>(wide_a | wide_b);
    case ReduceOp::kBitXor: return static_cast<T>(wide_a ^ wide_b);
    default: return static_cast<T>(wide_a + wide_b);
  }
}

/// 0 or 1: sum is "any", product is "all".
std::uint8_t combine_bool(ReduceOp op, std::uint8_t a, std::uint8_t b) {
  switch (op) {
    case ReduceOp::kProduct:
    case ReduceOp::kMin:
    case ReduceOp::kBitAnd: return a & b;
    case ReduceOp::kBitXor: return a ^ b;
    default: return a | b;
  }
}

template <class Format, class Combine>
void loop(const Job& job, Combine combine) {
  using Value = typename Format::Value;
  for (std::size_t i = 0; i < job.count; ++i) {
    const auto term = [&](std::size_t s) {
      const Value value = load<Format>(job.sources[s], i);
      if constexpr (std::is_floating_point_v<Value>) {
        if (job.how.op == ReduceOp::kPreMulSum) return value * static_cast<Value>(job.how.factors[s]);
      }
      return value;
    };
    Value value = term(0);
    for (std::size_t s = 1; s < job.sources.size(); ++s) value = combine(job.how.op, value, term(s));
    if constexpr (std::is_floating_point_v<Value>) {
      if (job.how.op == ReduceOp::kAvg) value *= Value{1} / static_cast<Value>(job.how.average_over);
    }
    for (void* const destination : job.destinations) store<Format>(value, destination, i);
  }
}

}  // namespace

void reduce(std::span<const void* const> sources, std::span<void* const> destinations, std::size_t count,
            const Reduction& how) {
  const Job job{sources, destinations, count, how};
  check(job);
  switch (how.dtype) {
    case DType::kFloat32: return loop<Plain<float>>(job, combine_floating<float>);
    case DType::kFloat64: return loop<Plain<double>>(job, combine_floating<double>);
    case DType::kFloat16: return loop<Half>(job, combine_floating<float>);
    case DType::kBFloat16: return loop<Bfloat>(job, combine_floating<float>);
    case DType::kInt8: return loop<Plain<std::int8_t>>(job, combine_integer<std::int8_t>);
    case DType::kUInt8: return loop<Plain<std::uint8_t>>(job, combine_integer<std::uint8_t>);
    case DType::kInt32: return loop<Plain<std::int32_t>>(job, combine_integer<std::int32_t>);
    case DType::kInt64: return loop<Plain<std::int64_t>>(job, combine_integer<std::int64_t>);
    case DType::kBool: return loop<Plain<std::uint8_t>>(job, combine_bool);
  }
}

void scale(void* data, std::size_t count, DType dtype, double factor) {
  check_scale(dtype);
  const auto loop = [&]<class Format>() {
    const auto by = static_cast<typename Format::Value>(factor);
    for (std::size_t i = 0; i < count; ++i) store<Format>(load<Format>(data, i) * by, data, i);
  };
  switch (dtype) {
    case DType::kFloat64: return loop.template operator()<Plain<double>>();
    case DType::kFloat16: return loop.template operator()<Half>();
    case DType::kBFloat16: return loop.template operator()<Bfloat>();
    default: return loop.template operator()<Plain<float>>();
  }
}

namespace {

template <class To, class From>
void convert_loop(void* destination, const void* source, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) store<To>(load<From>(source, i), destination, i);
}

}  // namespace

void convert(void* destination, DType destination_dtype, const void* source, DType source_dtype, std::size_t count) {
  check_convert(destination_dtype, source_dtype);
  if (source_dtype == DType::kFloat16) return convert_loop<Plain<float>, Half>(destination, source, count);
  if (source_dtype == DType::kBFloat16) return convert_loop<Plain<float>, Bfloat>(destination, source, count);
  if (destination_dtype == DType::kFloat16) return convert_loop<Half, Plain<float>>(destination, source, count);
  convert_loop<Bfloat, Plain<float>>(destination, source, count);
}

}  // namespace lockstep::kernels::scalar
