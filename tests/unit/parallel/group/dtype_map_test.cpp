#include "lockstep/parallel/group/dtype_map.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace lockstep::group {
namespace {

TEST(DtypeMap, GoesThereAndBackWithTheSameElementSize) {
  for (int i = 0; i < kDTypeCount; ++i) {
    const auto dtype = static_cast<DType>(i);
    EXPECT_EQ(from_torch(to_torch(dtype)), dtype);
    EXPECT_EQ(c10::elementSize(to_torch(dtype)), size_of(dtype)) << name_of(dtype);
    EXPECT_EQ(c10::isFloatingType(to_torch(dtype)), is_floating(dtype)) << name_of(dtype);
  }
}

TEST(DtypeMap, HasNothingForTypesThatCoreDoesNotCarry) {
  EXPECT_FALSE(from_torch(at::kComplexFloat));
  EXPECT_FALSE(from_torch(at::kShort));
  EXPECT_FALSE(from_torch(at::kQInt8));
  EXPECT_EQ(dtype_name(at::kComplexFloat), "ComplexFloat");
  EXPECT_EQ(dtype_name(at::kBFloat16), "bf16");
}

TEST(DtypeMap, DescribesTensors) {
  EXPECT_EQ(tensor_text(at::zeros({84, 120})), "f32 [84, 120]");
  EXPECT_EQ(tensor_text(at::zeros({}, at::kLong)), "i64 []");
  EXPECT_EQ(tensor_text(at::zeros({3, 4}, at::kDouble).t()), "f64 [4, 3] with strides [1, 4]");
  EXPECT_EQ(tensor_text(at::zeros({2, 2}).to_sparse()), "f32 [2, 2] (Sparse)");
  EXPECT_EQ(tensor_text(at::zeros({2}, at::kMeta)), "f32 [2] on meta");
  EXPECT_EQ(tensor_text(at::Tensor()), "undefined");
}

}  // namespace
}  // namespace lockstep::group
