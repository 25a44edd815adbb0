#include "lockstep/core/base/dtype.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/base/error.h"

namespace lockstep {
namespace {

TEST(DType, NamesRoundTripForEveryValue) {
  for (int i = 0; i < kDTypeCount; ++i) {
    const auto dtype = static_cast<DType>(i);
    EXPECT_EQ(parse_dtype(name_of(dtype)), dtype);
    EXPECT_GT(size_of(dtype), 0U);
  }
  EXPECT_EQ(name_of(static_cast<DType>(kDTypeCount)), "?");
}

TEST(DType, SizesAreThoseOfTheElements) {
  EXPECT_EQ(size_of(DType::kFloat32), 4U);
  EXPECT_EQ(size_of(DType::kFloat64), 8U);
  EXPECT_EQ(size_of(DType::kFloat16), 2U);
  EXPECT_EQ(size_of(DType::kBFloat16), 2U);
  EXPECT_EQ(size_of(DType::kInt8), 1U);
  EXPECT_EQ(size_of(DType::kUInt8), 1U);
  EXPECT_EQ(size_of(DType::kInt32), 4U);
  EXPECT_EQ(size_of(DType::kInt64), 8U);
  EXPECT_EQ(size_of(DType::kBool), 1U);
}

TEST(DType, AnUnknownNameListsTheKnownOnes) {
  try {
    parse_dtype("float32");
    FAIL() << "float32 is not a name of ours";
  } catch (const UsageError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("unknown dtype 'float32'; expected one of: f32 f64 f16 bf16"));
  }
}

TEST(ReduceOp, NamesRoundTripForEveryValue) {
  for (int i = 0; i < kReduceOpCount; ++i) {
    const auto op = static_cast<ReduceOp>(i);
    EXPECT_EQ(parse_reduce_op(name_of(op)), op);
  }
  EXPECT_EQ(parse_reduce_op("premul_sum"), ReduceOp::kPreMulSum);
  EXPECT_EQ(name_of(static_cast<ReduceOp>(kReduceOpCount)), "?");
  EXPECT_THROW(parse_reduce_op("mean"), UsageError);
}

TEST(ReduceOp, AveragesAreForFloatsAndBitsForIntegers) {
  for (int i = 0; i < kDTypeCount; ++i) {
    const auto dtype = static_cast<DType>(i);
    EXPECT_EQ(is_supported(ReduceOp::kAvg, dtype), is_floating(dtype));
    EXPECT_EQ(is_supported(ReduceOp::kPreMulSum, dtype), is_floating(dtype));
    EXPECT_EQ(is_supported(ReduceOp::kBitXor, dtype), !is_floating(dtype));
    EXPECT_TRUE(is_supported(ReduceOp::kSum, dtype));
    EXPECT_TRUE(is_supported(ReduceOp::kMax, dtype));
  }
}

}  // namespace
}  // namespace lockstep
