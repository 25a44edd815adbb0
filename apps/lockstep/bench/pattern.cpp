#include "apps/lockstep/bench/pattern.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "lockstep/core/kernels/kernels.h"

namespace lockstep::bench {
namespace {

constexpr std::size_t kPeriod = 251;  // Prime, so that no chunk boundary ever falls on a period.
constexpr std::size_t kRepeats = 16;  // Whole periods in the block that is copied.

/// Small enough that the result of up to 40 ranks is exact in the narrowest dtype.
std::int64_t input_value(DType dtype, ReduceOp op, int rank, int world_size, std::size_t index) {
  const auto i = static_cast<std::int64_t>(index);
  if (dtype == DType::kBool) return (i + rank) % (world_size + 3) == 0 ? 1 : 0;
  switch (op) {
    case ReduceOp::kProduct: return (i + rank) % (world_size + 1) == 0 ? 2 : 1;  // At most one rank holds a 2.
    case ReduceOp::kMin:
    case ReduceOp::kMax:
    case ReduceOp::kBitAnd:
    case ReduceOp::kBitOr:
    case ReduceOp::kBitXor: return (3 * i + 5 * rank) % 16;
    case ReduceOp::kSum:
    case ReduceOp::kAvg:
    case ReduceOp::kPreMulSum: break;
  }
  return (i + 3 * rank) % 4;
}

std::int64_t combine(DType dtype, ReduceOp op, std::int64_t a, std::int64_t b) {
  const bool boolean = dtype == DType::kBool;
  switch (op) {
    case ReduceOp::kProduct: return a * b;
    case ReduceOp::kMin: return std::min(a, b);
    case ReduceOp::kMax: return std::max(a, b);
    case ReduceOp::kBitAnd: return a & b;
    case ReduceOp::kBitOr: return a | b;
    case ReduceOp::kBitXor: return a ^ b;
    case ReduceOp::kSum:
    case ReduceOp::kAvg:
    case ReduceOp::kPreMulSum: break;
  }
  return boolean ? (a | b) : a + b;
}

/// The average as the library defines it: the sum times 1/p, in the type that sums are accumulated in.
double average(DType dtype, std::int64_t sum, int world_size) {
  if (dtype == DType::kFloat64) return static_cast<double>(sum) * (1.0 / world_size);
  return static_cast<double>(static_cast<float>(sum) * (1.0F / static_cast<float>(world_size)));
}

template <typename T>
void append(std::vector<std::byte>& block, double value) {
  const T typed = static_cast<T>(value);
  const auto* bytes = reinterpret_cast<const std::byte*>(&typed);
  block.insert(block.end(), bytes, bytes + sizeof(T));
}

void append_element(std::vector<std::byte>& block, DType dtype, double value) {
  switch (dtype) {
    case DType::kFloat64: return append<double>(block, value);
    case DType::kFloat32: return append<float>(block, value);
    case DType::kInt64: return append<std::int64_t>(block, value);
    case DType::kInt32: return append<std::int32_t>(block, value);
    case DType::kInt8: return append<std::int8_t>(block, value);
    case DType::kUInt8:
    case DType::kBool: return append<std::uint8_t>(block, value);
    case DType::kFloat16:
    case DType::kBFloat16: break;
  }
  const auto single = static_cast<float>(value);
  std::uint16_t half = 0;
  kernels::convert(&half, dtype, &single, DType::kFloat32, 1);
  const auto* bytes = reinterpret_cast<const std::byte*>(&half);
  block.insert(block.end(), bytes, bytes + sizeof half);
}

}  // namespace

Pattern::Pattern(DType dtype, const std::vector<double>& period) : element_size_(size_of(dtype)) {
  block_.reserve(period.size() * kRepeats * element_size_);
  for (std::size_t repeat = 0; repeat < kRepeats; ++repeat) {
    for (const double value : period) append_element(block_, dtype, value);
  }
}

Pattern Pattern::input(DType dtype, ReduceOp op, int rank, int world_size) {
  std::vector<double> period(kPeriod);
  for (std::size_t i = 0; i < kPeriod; ++i) {
    period[i] = static_cast<double>(input_value(dtype, op, rank, world_size, i));
  }
  return {dtype, period};
}

Pattern Pattern::reduced(DType dtype, ReduceOp op, int world_size) {
  std::vector<double> period(kPeriod);
  for (std::size_t i = 0; i < kPeriod; ++i) {
    std::int64_t value = input_value(dtype, op, 0, world_size, i);
    for (int rank = 1; rank < world_size; ++rank) {
      value = combine(dtype, op, value, input_value(dtype, op, rank, world_size, i));
    }
    period[i] = op == ReduceOp::kAvg ? average(dtype, value, world_size) : static_cast<double>(value);
  }
  return {dtype, period};
}

template <typename Visit>
void Pattern::for_each_run(std::size_t first, std::size_t count, Visit visit) const {
  std::size_t in_block = (first % kPeriod) * element_size_;
  const std::size_t end = count * element_size_;
  for (std::size_t offset = 0; offset < end;) {
    const std::size_t nbytes = std::min(block_.size() - in_block, end - offset);
    visit(offset, block_.data() + in_block, nbytes);
    offset += nbytes;
    in_block = 0;
  }
}

void Pattern::fill(void* data, std::size_t first, std::size_t count) const {
  auto* bytes = static_cast<std::byte*>(data);
  for_each_run(first, count, [bytes](std::size_t offset, const std::byte* block, std::size_t nbytes) {
    std::memcpy(bytes + offset, block, nbytes);
  });
}

std::size_t Pattern::count_wrong(const void* data, std::size_t first, std::size_t count) const {
  const auto* bytes = static_cast<const std::byte*>(data);
  std::size_t wrong = 0;
  for_each_run(first, count, [&](std::size_t offset, const std::byte* block, std::size_t nbytes) {
    if (std::memcmp(bytes + offset, block, nbytes) == 0) return;
    for (std::size_t at = 0; at < nbytes; at += element_size_) {
      if (std::memcmp(bytes + offset + at, block + at, element_size_) != 0) ++wrong;
    }
  });
  return wrong;
}

}  // namespace lockstep::bench
