// Results worked out by hand, on every instruction set and for the scalar specification.
#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include <gtest/gtest.h>

#include "lockstep/core/base/error.h"
#include "lockstep/core/kernels/kernels.h"
#include "tests/unit/core/kernels/kernel_testing.h"

namespace lockstep::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

template <typename T>
std::vector<T> reduced(const Reduction& how, const std::vector<std::vector<T>>& inputs, bool simd) {
  std::vector<const void*> sources;
  for (const auto& input : inputs) sources.push_back(input.data());
  std::vector<T> result(inputs[0].size());
  void* const destination = result.data();
  (simd ? reduce : scalar::reduce)(sources, {&destination, 1}, result.size(), how);
  return result;
}

/// The inputs repeated, so that the same values meet whole groups of vectors, single ones and a tail.
template <typename T>
std::vector<T> repeated(const std::vector<T>& values, std::size_t times) {
  std::vector<T> all;
  for (std::size_t i = 0; i < times; ++i) all.insert(all.end(), values.begin(), values.end());
  return all;
}

template <typename T>
void expect_bits(const std::vector<T>& got, const std::vector<T>& expected, const char* what) {
  ASSERT_EQ(got.size(), expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    ASSERT_EQ(std::memcmp(&got[i], &expected[i], sizeof(T)), 0)
        << what << ": element " << i << " is " << +got[i] << ", expected " << +expected[i];
  }
}

template <typename T>
void expect_reduced(const Reduction& how, const std::vector<std::vector<T>>& inputs, const std::vector<T>& expected) {
  SCOPED_TRACE(std::string(name_of(how.dtype)) + " " + std::string(name_of(how.op)));
  expect_bits(reduced(how, inputs, false), expected, "scalar");
  for (const std::size_t times : {1, 5, 47}) {
    std::vector<std::vector<T>> longer;
    for (const auto& input : inputs) longer.push_back(repeated(input, times));
    for_each_instruction_set([&](const std::string& name) {
      expect_bits(reduced(how, longer, true), repeated(expected, times), name.c_str());
    });
  }
}

TEST(Values, SumsAndAveragesOfFloats) {
  expect_reduced<float>({DType::kFloat32, ReduceOp::kSum}, {{1, 2, 3}, {10, 20, 30}, {100, 200, 300}}, {111, 222, 333});
  expect_reduced<float>({DType::kFloat32, ReduceOp::kAvg, 2}, {{1, 2, 3}, {3, 2, 4}}, {2, 2, 3.5F});
  expect_reduced<double>({DType::kFloat64, ReduceOp::kAvg, 2}, {{1, 2, 3}, {3, 2, 4}}, {2, 2, 3.5});
  // The sum is multiplied by the rounded 1/3, as torch does; it is not divided.
  expect_reduced<float>({DType::kFloat32, ReduceOp::kAvg, 3}, {{5}}, {5.0F * (1.0F / 3.0F)});
  expect_reduced<double>({DType::kFloat64, ReduceOp::kAvg, 3}, {{5}}, {5.0 * (1.0 / 3.0)});
}

TEST(Values, SumsRunInTheOrderOfTheSources) {
  expect_reduced<float>({DType::kFloat32, ReduceOp::kSum}, {{0x1p24F}, {1}, {-0x1p24F}}, {0});
  expect_reduced<float>({DType::kFloat32, ReduceOp::kSum}, {{0x1p24F}, {-0x1p24F}, {1}}, {1});
  expect_reduced<double>({DType::kFloat64, ReduceOp::kSum}, {{0x1p53}, {1}, {-0x1p53}}, {0});
}

template <typename T>
void expect_weighted(DType dtype, const std::vector<double>& factors, const std::vector<std::vector<T>>& inputs,
                     const std::vector<T>& expected) {
  expect_reduced<T>({dtype, ReduceOp::kPreMulSum, 1, factors}, inputs, expected);
}

TEST(Values, PreMulSumsMultiplyEachSourceByItsFactor) {
  expect_weighted<float>(DType::kFloat32, {2, 0.5}, {{1, 2, 3}, {10, 20, 30}}, {7, 14, 21});
  expect_weighted<double>(DType::kFloat64, {-1, 3, 0.25}, {{1, 2}, {5, 7}, {8, -4}}, {16, 18});
  expect_weighted<float>(DType::kFloat32, {3}, {{5, -0.0F}}, {15, -0.0F});
  expect_weighted<std::uint16_t>(DType::kFloat16, {2, 0.5}, {{0x3c00}, {0x4000}}, {0x4200});
  expect_weighted<std::uint16_t>(DType::kBFloat16, {2, 0.5}, {{0x3f80}, {0x4000}}, {0x4040});
}

TEST(Values, PreMulSumsRoundEachProductAndAddInOrder) {
  // (1 + e)^2 - (1 + 2e) is 0 where the product is rounded and e^2 where multiplication and addition are fused.
  constexpr float kOne32 = 1 + 0x1p-12F;
  constexpr double kOne64 = 1 + 0x1p-27;
  expect_weighted<float>(DType::kFloat32, {kOne32, -1}, {{kOne32}, {1 + 0x1p-11F}}, {0});
  expect_weighted<float>(DType::kFloat32, {-1, kOne32}, {{1 + 0x1p-11F}, {kOne32}}, {0});
  expect_weighted<double>(DType::kFloat64, {kOne64, -1}, {{kOne64}, {1 + 0x1p-26}}, {0});
  expect_weighted<double>(DType::kFloat64, {-1, kOne64}, {{1 + 0x1p-26}, {kOne64}}, {0});
  expect_weighted<float>(DType::kFloat32, {2, 1, -2}, {{0x1p24F}, {1}, {0x1p24F}}, {0});
  expect_weighted<float>(DType::kFloat32, {2, -2, 1}, {{0x1p24F}, {0x1p24F}, {1}}, {1});
  // The factor is 1 as a float; multiplied in double the product would be the next float.
  expect_weighted<float>(DType::kFloat32, {1 + 0x1p-24}, {{1 + 0x1p-23F}}, {1 + 0x1p-23F});
}

TEST(Values, PreMulSumsOfHalfsAreRoundedOnce) {
  // 2048 + 2/2 + 2/2 in f16, 256 + 2/2 + 2/2 in bf16: rounded after each addition they would stay 2048 and 256.
  expect_weighted<std::uint16_t>(DType::kFloat16, {1, 0.5, 0.5}, {{0x6800}, {0x4000}, {0x4000}}, {0x6801});
  expect_weighted<std::uint16_t>(DType::kBFloat16, {1, 0.5, 0.5}, {{0x4380}, {0x4000}, {0x4000}}, {0x4381});
  // (1 + e)^2 - (1 + 2e) is e^2: products are rounded to float, not to 16 bits.
  expect_weighted<std::uint16_t>(DType::kFloat16, {1 + 0x1p-10, -1}, {{0x3c01}, {0x3c02}}, {0x0010});
  expect_weighted<std::uint16_t>(DType::kBFloat16, {1 + 0x1p-7, -1}, {{0x3f81}, {0x3f82}}, {0x3880});
}

TEST(Values, PreMulSumsOfNanAndInfinity) {
  expect_weighted<float>(DType::kFloat32, {0, 1}, {{kInfinity, -std::nanf("0x1234"), 1}, {1, 1, 1}}, {kNan, kNan, 1});
  expect_weighted<float>(DType::kFloat32, {double{kInfinity}, -1}, {{1, 0, -1}, {1, 1, 1}},
                         {kInfinity, kNan, -kInfinity});
  expect_weighted<double>(DType::kFloat64, {double{-kNan}}, {{1, 0}}, {double{kNan}, double{kNan}});
  expect_weighted<std::uint16_t>(DType::kFloat16, {2, 1}, {{0x7bff, 0xfe12}, {0, 0}}, {0x7c00, 0x7e00});
  expect_weighted<std::uint16_t>(DType::kBFloat16, {2, 1}, {{0x7f7f, 0xffc1}, {0, 0}}, {0x7f80, 0x7fc0});
}

TEST(Values, OtherOperationsIgnoreFactors) {
  const double factors[] = {2, 3, 5};
  expect_reduced<float>({DType::kFloat32, ReduceOp::kSum, 1, factors}, {{1}, {10}}, {11});
  expect_reduced<float>({DType::kFloat32, ReduceOp::kAvg, 2, factors}, {{1}, {10}}, {5.5F});
  expect_reduced<std::int32_t>({DType::kInt32, ReduceOp::kMax, 1, factors}, {{1}, {10}}, {10});
}

TEST(Values, ProductsMinimaAndMaxima) {
  expect_reduced<float>({DType::kFloat32, ReduceOp::kProduct}, {{2, -3, 0.5F}, {4, 5, 8}}, {8, -15, 4});
  expect_reduced<double>({DType::kFloat64, ReduceOp::kMin}, {{2, -3}, {4, -5}, {3, 0}}, {2, -5});
  expect_reduced<float>({DType::kFloat32, ReduceOp::kMax}, {{2, -3}, {4, -5}, {3, -4}}, {4, -3});
}

TEST(Values, NanInfinityAndSignedZeros) {
  expect_reduced<float>({DType::kFloat32, ReduceOp::kMin},
                        {{kNan, 1, kInfinity, -0.0F, 0.0F}, {1, kNan, 2, 0.0F, -0.0F}}, {kNan, kNan, 2, -0.0F, 0.0F});
  expect_reduced<float>({DType::kFloat32, ReduceOp::kMax},
                        {{kNan, 1, kInfinity, -0.0F, 0.0F}, {1, kNan, 2, 0.0F, -0.0F}},
                        {kNan, kNan, kInfinity, -0.0F, 0.0F});
  // A NaN stays although an ordinary number follows; so does one in the middle.
  expect_reduced<float>({DType::kFloat32, ReduceOp::kMin}, {{1, 5}, {kNan, 4}, {-1, 3}}, {kNan, 3});
  expect_reduced<double>({DType::kFloat64, ReduceOp::kMax}, {{1, 5}, {double{kNan}, 4}, {7, 3}}, {double{kNan}, 5});
  // inf - inf is a negative NaN on x86; what is stored is the canonical one.
  expect_reduced<float>({DType::kFloat32, ReduceOp::kSum},
                        {{kInfinity, kInfinity, -0.0F, 3e38F}, {-kInfinity, 1, -0.0F, 3e38F}},
                        {kNan, kInfinity, -0.0F, kInfinity});
  expect_reduced<float>({DType::kFloat32, ReduceOp::kSum}, {{-std::nanf("0x1234")}}, {kNan});
  expect_reduced<float>({DType::kFloat32, ReduceOp::kSum}, {{0x1p-149F}, {0x1p-149F}}, {0x1p-148F});
}

TEST(Values, IntegersWrapAround) {
  using I8 = std::int8_t;
  using U8 = std::uint8_t;
  constexpr std::int32_t kMax32 = std::numeric_limits<std::int32_t>::max();
  constexpr std::int32_t kMin32 = std::numeric_limits<std::int32_t>::min();
  constexpr std::int64_t kMax64 = std::numeric_limits<std::int64_t>::max();
  constexpr std::int64_t kMin64 = std::numeric_limits<std::int64_t>::min();
  expect_reduced<std::int32_t>({DType::kInt32, ReduceOp::kSum}, {{kMax32, -1, 7}, {1, -1, 8}}, {kMin32, -2, 15});
  expect_reduced<std::int64_t>({DType::kInt64, ReduceOp::kSum}, {{kMax64, -1}, {1, -1}}, {kMin64, -2});
  expect_reduced<I8>({DType::kInt8, ReduceOp::kSum}, {{127, -128, 5}, {1, -1, 6}}, {-128, 127, 11});
  expect_reduced<U8>({DType::kUInt8, ReduceOp::kSum}, {{255, 200}, {1, 100}}, {0, 44});
  expect_reduced<I8>({DType::kInt8, ReduceOp::kProduct}, {{16, -3, -128, 11}, {16, 5, -1, -11}}, {0, -15, -128, -121});
  expect_reduced<U8>({DType::kUInt8, ReduceOp::kProduct}, {{16, 15, 255}, {17, 17, 255}}, {16, 255, 1});
  expect_reduced<std::int32_t>({DType::kInt32, ReduceOp::kProduct}, {{65536, -3}, {65536, 7}}, {0, -21});
  expect_reduced<std::int64_t>({DType::kInt64, ReduceOp::kProduct}, {{0x100000001, -3, kMin64}, {0x100000001, 7, -1}},
                               {0x200000001, -21, kMin64});
}

TEST(Values, IntegerMinimaAreSignedOrUnsigned) {
  expect_reduced<std::int8_t>({DType::kInt8, ReduceOp::kMin}, {{-128, 1}, {127, -1}}, {-128, -1});
  expect_reduced<std::uint8_t>({DType::kUInt8, ReduceOp::kMin}, {{128, 255}, {127, 1}}, {127, 1});
  expect_reduced<std::uint8_t>({DType::kUInt8, ReduceOp::kMax}, {{128, 255}, {127, 1}}, {128, 255});
  expect_reduced<std::int32_t>({DType::kInt32, ReduceOp::kMax}, {{-2, 5}, {-1, 4}, {-3, 6}}, {-1, 6});
  expect_reduced<std::int64_t>({DType::kInt64, ReduceOp::kMin}, {{1LL << 40, -(1LL << 40)}, {1, 0}}, {1, -(1LL << 40)});
}

TEST(Values, BitsAndBools) {
  expect_reduced<std::int32_t>({DType::kInt32, ReduceOp::kBitAnd}, {{0x0ff0}, {0x3c3c}}, {0x0c30});
  expect_reduced<std::int64_t>({DType::kInt64, ReduceOp::kBitOr}, {{1LL << 62}, {1}}, {(1LL << 62) | 1});
  expect_reduced<std::uint8_t>({DType::kUInt8, ReduceOp::kBitXor}, {{0xff}, {0x0f}, {0x01}}, {0xf1});
  const std::vector<std::vector<std::uint8_t>> bools = {{0, 0, 1, 1}, {0, 1, 0, 1}};
  expect_reduced<std::uint8_t>({DType::kBool, ReduceOp::kSum}, bools, {0, 1, 1, 1});
  expect_reduced<std::uint8_t>({DType::kBool, ReduceOp::kMax}, bools, {0, 1, 1, 1});
  expect_reduced<std::uint8_t>({DType::kBool, ReduceOp::kProduct}, bools, {0, 0, 0, 1});
  expect_reduced<std::uint8_t>({DType::kBool, ReduceOp::kMin}, bools, {0, 0, 0, 1});
  expect_reduced<std::uint8_t>({DType::kBool, ReduceOp::kBitXor}, bools, {0, 1, 1, 0});
}

TEST(Values, HalfsAreAddedInFloatAndRoundedOnce) {
  // f16: 2048 + 1 + 1 is 2050; rounded after each addition it would be 2048. 65504 + 16 is a tie that goes to
  // infinity, 65504 + 15 stays; 65504 + 65504 - 65504 passes through float without overflow.
  expect_reduced<std::uint16_t>(
      {DType::kFloat16, ReduceOp::kSum},
      {{0x6800, 0x7bff, 0x7bff, 0x7bff}, {0x3c00, 0x4c00, 0x4b80, 0x7bff}, {0x3c00, 0, 0, 0xfbff}},
      {0x6801, 0x7c00, 0x7bff, 0x7bff});
  // bf16: 256 + 1 is a tie to even (256), 256 + 1 + 1 is 258.
  expect_reduced<std::uint16_t>({DType::kBFloat16, ReduceOp::kSum}, {{0x4380, 0x4380}, {0x3f80, 0x3f80}, {0, 0x3f80}},
                                {0x4380, 0x4381});
  expect_reduced<std::uint16_t>({DType::kFloat16, ReduceOp::kAvg, 2}, {{0x3c00}, {0x4000}}, {0x3e00});
  expect_reduced<std::uint16_t>({DType::kBFloat16, ReduceOp::kAvg, 2}, {{0x3f80}, {0x4000}}, {0x3fc0});
  // Subnormals of f16, NaN, infinity.
  expect_reduced<std::uint16_t>({DType::kFloat16, ReduceOp::kSum},
                                {{0x0001, 0x03ff, 0xfe12, 0x7c00}, {0x0001, 0x0001, 0, 0xfc00}},
                                {0x0002, 0x0400, 0x7e00, 0x7e00});
  expect_reduced<std::uint16_t>({DType::kBFloat16, ReduceOp::kMax}, {{0xffc1, 0x7f80, 0x0001}, {0, 0, 0}},
                                {0x7fc0, 0x7f80, 0x0001});
}

TEST(Usage, UnsupportedCombinationsThrow) {
  std::uint64_t value = 0;
  const void* const source = &value;
  void* const destination = &value;
  const double factor = 1;
  for (const auto& reduce_with : {&reduce, &scalar::reduce}) {
    for (const DType dtype : all_dtypes()) {
      for (const ReduceOp op : all_ops()) {
        const auto call = [&] { reduce_with({&source, 1}, {&destination, 1}, 1, {dtype, op, 1, {&factor, 1}}); };
        if (is_supported(op, dtype)) {
          EXPECT_NO_THROW(call()) << name_of(op) << " " << name_of(dtype);
        } else {
          EXPECT_THROW(call(), UsageError) << name_of(op) << " " << name_of(dtype);
        }
      }
    }
    const auto call = [&](std::size_t sources, std::size_t destinations, ReduceOp op, int average_over) {
      reduce_with({&source, sources}, {&destination, destinations}, 1, {DType::kFloat32, op, average_over});
    };
    EXPECT_THROW(call(0, 1, ReduceOp::kSum, 1), UsageError);
    EXPECT_THROW(call(1, 0, ReduceOp::kSum, 1), UsageError);
    EXPECT_THROW(call(1, 1, ReduceOp::kAvg, 0), UsageError);
    EXPECT_NO_THROW(call(1, 1, ReduceOp::kSum, 0));
  }
}

TEST(Usage, APreMulSumTakesAFactorForEachSource) {
  const float ones[] = {1, 1};
  float result = 3;
  const void* const sources[] = {&ones[0], &ones[1]};
  void* const destinations[] = {&result};
  const double factors[] = {1, 1, 1};
  const auto complaint = [&](bool simd, std::size_t count, std::size_t given) -> std::string {
    const Reduction how{DType::kFloat32, ReduceOp::kPreMulSum, 1, {factors, given}};
    try {
      simd ? reduce(sources, destinations, count, how) : scalar::reduce(sources, destinations, count, how);
    } catch (const UsageError& error) {
      return error.what();
    }
    return "none";
  };
  for (const bool simd : {false, true}) {
    for (const std::size_t count : {0, 1}) {
      for (const std::size_t given : {0, 1, 3}) {
        EXPECT_EQ(complaint(simd, count, given),
                  "reduce: premul_sum got " + std::to_string(given) + " factors for 2 sources; it takes one a source");
      }
    }
    EXPECT_EQ(result, 3);
    EXPECT_EQ(complaint(simd, 1, 2), "none");
    EXPECT_EQ(std::exchange(result, 3.0F), 2);
  }
}

TEST(Usage, ScaleAndConvertTakeFloatsOnly) {
  std::uint64_t from = 0;
  std::uint64_t to = 0;
  for (const DType dtype : all_dtypes()) {
    if (!is_floating(dtype)) {
      EXPECT_THROW(scale(&to, 1, dtype, 2.0), UsageError) << name_of(dtype);
    }
    EXPECT_THROW(convert(&to, dtype, &from, dtype, 1), UsageError) << name_of(dtype);
    EXPECT_THROW(convert(&to, DType::kFloat64, &from, dtype, 1), UsageError) << name_of(dtype);
  }
  EXPECT_THROW(convert(&to, DType::kFloat16, &from, DType::kBFloat16, 1), UsageError);
}

TEST(Copy, CopiesWhatItIsAskedTo) {
  kernels::copy(nullptr, nullptr, 0);
  std::mt19937_64 random(11);
  for (const std::size_t nbytes : {1, 7, 64, 4099, 3 << 20}) {
    Buffer source(nbytes, 1);
    Buffer destination(nbytes, 2);
    fill(source, DType::kUInt8, random);
    kernels::copy(destination.data(), source.data(), nbytes);
    EXPECT_TRUE(destination == source) << nbytes;
    EXPECT_TRUE(destination.guards_untouched()) << nbytes;
  }
}

}  // namespace
}  // namespace lockstep::kernels
