#pragma once
// Inputs whose reductions are exact in every dtype, and what they must come to, computed one element at a time.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <tuple>
#include <vector>

#include "lockstep/core/base/dtype.h"
#include "lockstep/core/kernels/kernels.h"

namespace lockstep::testing {

/// Contributions repeat after this many elements: a prime, so that no shift by whole pieces or chunks goes unseen.
inline constexpr std::size_t kPeriod = 1021;

/// What rank contributes at element i: 1 or 2 for products (so that eight of them fit an int8), small integers else.
inline std::int64_t contribution(int rank, std::size_t i, ReduceOp op) {
  const auto mixed = static_cast<std::int64_t>((i % kPeriod * 7 + static_cast<std::size_t>(rank) * 5) % 11);
  if (op == ReduceOp::kProduct) return 1 + mixed % 2 * (rank < 6 ? 1 : 0);
  if (op == ReduceOp::kPreMulSum) return mixed % 4;
  return mixed;
}

/// A rank's factor for kPreMulSum: powers of two, so that the sums stay exact in eight bits of mantissa.
inline double factor_of(int rank) { return rank % 3 == 0 ? 1.0 : (rank % 3 == 1 ? -2.0 : 0.5); }

/// The reduction over all ranks; `dtype` matters for bool (sum = any, product = all). kAvg: the sum.
inline double expected(std::size_t i, int world, ReduceOp op, DType dtype) {
  if (op == ReduceOp::kPreMulSum) {
    double sum = 0;
    for (int rank = 0; rank < world; ++rank) sum += factor_of(rank) * static_cast<double>(contribution(rank, i, op));
    return sum;
  }
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
      case ReduceOp::kPreMulSum: break;
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

/// An endless sequence of elements of one dtype that repeats after kPeriod: written and compared at memcpy's speed.
class Pattern {
 public:
  Pattern(DType dtype, const std::function<double(std::size_t)>& element)
      : dtype_(dtype), cells_(kPeriod * size_of(dtype)) {
    for (std::size_t i = 0; i < kPeriod; ++i) put(cells_.data(), i, dtype, element(i));
  }
  /// What `rank` contributes. Made once a thread.
  static const Pattern& of_rank(int rank, DType dtype, ReduceOp op = ReduceOp::kSum) {
    return cached(rank, dtype, op, [&](std::size_t i) { return static_cast<double>(contribution(rank, i, op)); });
  }
  /// What all ranks' contributions come to. Made once a thread.
  static const Pattern& of_result(int world, DType dtype, ReduceOp op = ReduceOp::kSum) {
    return cached(-world, dtype, op, [&](std::size_t i) {
      const double sum = expected(i, world, op, dtype);
      if (op != ReduceOp::kAvg) return sum;
      if (dtype == DType::kFloat64) return sum * (1.0 / world);
      return rounded(static_cast<float>(sum) * (1.0f / static_cast<float>(world)), dtype);
    });
  }

  DType dtype() const noexcept { return dtype_; }

  /// Writes elements offset, offset + 1, ... to `data`.
  void write(void* data, std::size_t count, std::size_t offset = 0) const {
    auto* const out = static_cast<std::byte*>(data);
    for_each_run(count, offset, [&](std::size_t done, std::size_t from, std::size_t n) {
      std::memcpy(out + done * size_of(dtype_), cells_.data() + from * size_of(dtype_), n * size_of(dtype_));
    });
  }
  /// Elements of `data` that differ from elements offset, offset + 1, ... (0 and -0 are equal).
  std::size_t count_wrong(const void* data, std::size_t count, std::size_t offset = 0) const {
    const auto* const in = static_cast<const std::byte*>(data);
    std::size_t wrong = 0;
    for_each_run(count, offset, [&](std::size_t done, std::size_t from, std::size_t n) {
      const std::byte* const want = cells_.data() + from * size_of(dtype_);
      if (std::memcmp(in + done * size_of(dtype_), want, n * size_of(dtype_)) == 0) return;
      for (std::size_t i = 0; i < n; ++i) wrong += get(in, done + i, dtype_) != get(want, i, dtype_) ? 1 : 0;
    });
    return wrong;
  }

 private:
  static const Pattern& cached(int who, DType dtype, ReduceOp op, const std::function<double(std::size_t)>& element) {
    thread_local std::map<std::tuple<int, DType, ReduceOp>, Pattern> patterns;
    const auto key = std::make_tuple(who, dtype, op);
    const auto found = patterns.find(key);
    return found != patterns.end() ? found->second : patterns.emplace(key, Pattern(dtype, element)).first->second;
  }
  /// body(elements before this run, where it begins in the cells, its length).
  template <typename Body>
  static void for_each_run(std::size_t count, std::size_t offset, Body body) {
    for (std::size_t done = 0; done < count;) {
      const std::size_t from = (offset + done) % kPeriod;
      const std::size_t n = std::min(count - done, kPeriod - from);
      body(done, from, n);
      done += n;
    }
  }

  DType dtype_;
  std::vector<std::byte> cells_;
};

}  // namespace lockstep::testing
