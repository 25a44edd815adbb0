#pragma once
// Internal. 16-bit floats in plain arithmetic: the specification of what the vector kernels do in hardware.
//
// Narrowing rounds once, to nearest even; beyond the largest finite value it gives infinity; any NaN becomes the one
// canonical NaN. Widening is exact and keeps a NaN's sign and payload (f16 sets its quiet bit, as F16C does).

#include <bit>
#include <cstdint>

namespace lockstep::kernels {

/// What every NaN result is stored as. Which payload an addition of two NaNs keeps depends on the operand order that
/// a compiler chose, and the sign of inf - inf on the processor; ranks and instruction sets must agree on the bits.
inline constexpr std::uint32_t kCanonicalNan32 = 0x7fc00000U;
inline constexpr std::uint64_t kCanonicalNan64 = 0x7ff8000000000000U;

constexpr float canonical(float value) noexcept {
  return value != value ? std::bit_cast<float>(kCanonicalNan32) : value;
}
constexpr double canonical(double value) noexcept {
  return value != value ? std::bit_cast<double>(kCanonicalNan64) : value;
}

constexpr float float_from_bfloat(std::uint16_t value) noexcept {
  return std::bit_cast<float>(static_cast<std::uint32_t>(value) << 16);
}

constexpr std::uint16_t bfloat_from_float(float value) noexcept {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(canonical(value));
  return static_cast<std::uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

constexpr float float_from_half(std::uint16_t value) noexcept {
  const std::uint32_t sign = (value & 0x8000U) << 16;
  const std::uint32_t magnitude = value & 0x7fffU;
  std::uint32_t bits = (magnitude << 13) + (112U << 23);  // the exponent's bias is 15 there and 127 here
  if (magnitude > 0x7c00U) {
    bits = 0x7fc00000U | (magnitude << 13);
  } else if (magnitude == 0x7c00U) {
    bits = 0x7f800000U;
  } else if (magnitude < 0x0400U) {  // zero and subnormals: units of 2^-24
    bits = std::bit_cast<std::uint32_t>(static_cast<float>(magnitude) * 0x1p-24F);
  }
  return std::bit_cast<float>(sign | bits);
}

constexpr std::uint16_t half_from_float(float value) noexcept {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000U;
  const std::uint32_t magnitude = bits & 0x7fffffffU;
  std::uint32_t half = 0;
  if (magnitude > 0x7f800000U) return 0x7e00U;
  if (magnitude >= 0x47800000U) {  // 65536 and more
    half = 0x7c00U;
  } else if (magnitude < 0x38800000U) {
    // Below 2^-14 the unit is 2^-24, which is the unit of [0.5, 1) in float: the addition does the rounding.
    half = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5F) - 0x3f000000U;
  } else {  // a carry out of the mantissa raises the exponent, up to infinity
    half = (magnitude - (112U << 23) + 0xfffU + ((magnitude >> 13) & 1U)) >> 13;
  }
  return static_cast<std::uint16_t>(sign | half);
}

}  // namespace lockstep::kernels
