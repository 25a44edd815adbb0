// The 16-bit formats against a reference that uses no bit pattern of theirs: a value, a unit and std::nearbyint.
#include "lockstep/core/kernels/half.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "tests/unit/core/kernels/kernel_testing.h"

namespace lockstep::kernels {
namespace {

struct Format {
  int mantissa_bits;  ///< without the leading one
  int smallest_exponent;
  double largest;
};
constexpr Format kHalf = {10, -14, 65504.0};
constexpr Format kBfloat = {7, -126, 0x1.fep127};

/// `value` rounded to the format, as a double.
double rounded(const Format& format, double value) {
  if (value == 0 || !std::isfinite(value)) return value;
  const int exponent = std::max(std::ilogb(value), format.smallest_exponent);
  const double unit = std::ldexp(1.0, exponent - format.mantissa_bits);
  const double nearest = std::nearbyint(value / unit) * unit;
  return std::abs(nearest) > format.largest ? std::copysign(std::numeric_limits<double>::infinity(), value) : nearest;
}

double value_of(const Format& format, std::uint16_t bits) {
  const int sign = bits >> 15;
  const int field = (bits & 0x7fff) >> format.mantissa_bits;
  const int mantissa = bits & ((1 << format.mantissa_bits) - 1);
  const int special = (1 << (15 - format.mantissa_bits)) - 1;
  double magnitude = 0;
  if (field == special) {
    magnitude = mantissa != 0 ? std::numeric_limits<double>::quiet_NaN() : std::numeric_limits<double>::infinity();
  } else if (field == 0) {
    magnitude = std::ldexp(mantissa, format.smallest_exponent - format.mantissa_bits);
  } else {
    magnitude =
        std::ldexp(mantissa + (1 << format.mantissa_bits), field - 1 + format.smallest_exponent - format.mantissa_bits);
  }
  return sign != 0 ? -magnitude : magnitude;
}

std::uint32_t float_bits_of_half(std::uint32_t bits) {
  return std::bit_cast<std::uint32_t>(float_from_half(static_cast<std::uint16_t>(bits)));
}

void expect_same(double got, double expected, float input) {
  if (std::isnan(expected)) {
    ASSERT_TRUE(std::isnan(got)) << input;
  } else {
    ASSERT_EQ(got, expected) << std::hexfloat << input;
    ASSERT_EQ(std::signbit(got), std::signbit(expected)) << std::hexfloat << input;
  }
}

TEST(Half, EveryValueWidensExactlyAndNarrowsBack) {
  for (std::uint32_t i = 0; i < 65536; ++i) {
    const auto bits = static_cast<std::uint16_t>(i);
    expect_same(double{float_from_half(bits)}, value_of(kHalf, bits), float_from_half(bits));
    expect_same(double{float_from_bfloat(bits)}, value_of(kBfloat, bits), float_from_bfloat(bits));
    if (HasFatalFailure()) return;
    const bool nan_half = std::isnan(value_of(kHalf, bits));
    ASSERT_EQ(half_from_float(float_from_half(bits)), nan_half ? 0x7e00 : bits);
    const bool nan_bfloat = std::isnan(value_of(kBfloat, bits));
    ASSERT_EQ(bfloat_from_float(float_from_bfloat(bits)), nan_bfloat ? 0x7fc0 : bits);
  }
}

/// Each f16 and bf16 value, what lies half way to the next one, and the floats on either side of both.
TEST(Half, RoundsOnceToNearestEven) {
  for (std::uint32_t i = 0; i < 65536; ++i) {
    for (const std::uint32_t near : {float_bits_of_half(i), i << 16}) {
      for (const std::uint32_t half_way : {0U, 0x1000U, 0x8000U}) {
        for (const std::uint32_t off : {0U, 1U, 0xffffffffU}) {
          const auto value = std::bit_cast<float>(near + half_way + off);
          if (std::isnan(value)) {
            ASSERT_EQ(half_from_float(value), 0x7e00);
            ASSERT_EQ(bfloat_from_float(value), 0x7fc0);
            continue;
          }
          expect_same(value_of(kHalf, half_from_float(value)), rounded(kHalf, double{value}), value);
          expect_same(value_of(kBfloat, bfloat_from_float(value)), rounded(kBfloat, double{value}), value);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

/// The same inputs through the instruction sets.
TEST(Half, ConversionsOfEveryInstructionSetAgree) {
  std::vector<std::uint16_t> all16(65536);
  std::vector<float> all32;
  for (std::uint32_t i = 0; i < 65536; ++i) {
    all16[i] = static_cast<std::uint16_t>(i);
    for (const std::uint32_t near : {float_bits_of_half(i), i << 16}) {
      for (const std::uint32_t off : {0U, 1U, 0xfffU, 0x1000U, 0x1001U, 0x7fffU, 0x8000U, 0x8001U}) {
        all32.push_back(std::bit_cast<float>(near + off));
      }
    }
  }
  for_each_instruction_set([&](const std::string&) {
    std::vector<std::uint16_t> narrow(all32.size());
    std::vector<float> wide(all16.size());
    convert(narrow.data(), DType::kFloat16, all32.data(), DType::kFloat32, all32.size());
    for (std::size_t i = 0; i < all32.size(); ++i) ASSERT_EQ(narrow[i], half_from_float(all32[i])) << all32[i];
    convert(narrow.data(), DType::kBFloat16, all32.data(), DType::kFloat32, all32.size());
    for (std::size_t i = 0; i < all32.size(); ++i) ASSERT_EQ(narrow[i], bfloat_from_float(all32[i])) << all32[i];
    convert(wide.data(), DType::kFloat32, all16.data(), DType::kFloat16, all16.size());
    for (std::size_t i = 0; i < all16.size(); ++i) {
      ASSERT_EQ(std::bit_cast<std::uint32_t>(wide[i]),
                std::bit_cast<std::uint32_t>(canonical(float_from_half(all16[i]))));
    }
  });
}

}  // namespace
}  // namespace lockstep::kernels
