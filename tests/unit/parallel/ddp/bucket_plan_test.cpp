#include "lockstep/parallel/ddp/bucket_plan.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/base/error.h"

namespace lockstep::ddp {
namespace {

using ::testing::ElementsAre;

std::vector<std::size_t> reversed(std::size_t count) {
  std::vector<std::size_t> order(count);
  std::iota(order.rbegin(), order.rend(), std::size_t{0});
  return order;
}

TEST(BucketPlan, ClosesABucketWhenItReachesItsCap) {
  // Bytes in order: 40, 40, 40, 400, 4; the first cap is reached by the second, the other one by the fourth.
  const std::vector<ParameterSize> sizes = {{1}, {100}, {10}, {10}, {10}};
  const auto plan = plan_buckets(sizes, reversed(5), {.first_bytes = 80, .bytes = 400});
  ASSERT_EQ(plan.size(), 3u);
  EXPECT_THAT(plan[0].parameters, ElementsAre(4, 3));
  EXPECT_THAT(plan[0].offsets, ElementsAre(0, 16));
  EXPECT_EQ(plan[0].numel, 32);
  EXPECT_EQ(plan[0].nbytes(), 128u);
  EXPECT_THAT(plan[1].parameters, ElementsAre(2, 1));
  EXPECT_EQ(plan[1].numel, 16 + 112);
  EXPECT_THAT(plan[2].parameters, ElementsAre(0));
}

TEST(BucketPlan, HasSmallBucketsWhereRanksShareMemory) {
  EXPECT_EQ(default_bucket_cap("shm"), 4u << 20);
  for (const char* backend : {"gloo", "mpi", "hier"}) EXPECT_EQ(default_bucket_cap(backend), 25u << 20) << backend;
}

TEST(BucketPlan, GivesEachParameterABucketWhenTheCapIsZero) {
  const std::vector<ParameterSize> sizes = {{3}, {0}, {5}};
  const auto plan = plan_buckets(sizes, reversed(3), {.first_bytes = 0, .bytes = 0});
  ASSERT_EQ(plan.size(), 3u);
  EXPECT_THAT(plan[1].parameters, ElementsAre(1));
  EXPECT_EQ(plan[1].numel, 16);  // A line of its own: no bucket is empty.
}

TEST(BucketPlan, KeepsDtypesApartAndSortsByWhatCompletesABucket) {
  const std::vector<ParameterSize> sizes = {
      {8, DType::kFloat32}, {8, DType::kFloat64}, {8, DType::kFloat32}, {8, DType::kFloat64}};
  const std::vector<std::size_t> order = {0, 1, 2, 3};
  const auto plan = plan_buckets(sizes, order, {.first_bytes = 128, .bytes = 128});
  ASSERT_EQ(plan.size(), 2u);
  // The float64 bucket is the one that is closed, but the float32 gradients are complete before it.
  EXPECT_THAT(plan[0].parameters, ElementsAre(0, 2));
  EXPECT_EQ(plan[1].dtype, DType::kFloat64);
  EXPECT_THAT(plan[1].parameters, ElementsAre(1, 3));
}

TEST(BucketPlan, RefusesAnOrderOfAnotherLength) {
  const std::vector<ParameterSize> sizes = {{3}, {4}};
  EXPECT_THROW(plan_buckets(sizes, reversed(3), {}), InternalError);
}

// Whatever the input: every parameter lies in exactly one bucket, slots are aligned and disjoint, dtypes are apart, a
// bucket passes its cap with its last parameter only, and buckets fill up in the order of the list.
TEST(BucketPlan, HoldsItsInvariantsOnRandomModels) {
  std::mt19937 random(7);
  const auto below = [&](std::size_t n) { return std::uniform_int_distribution<std::size_t>(0, n - 1)(random); };
  constexpr DType kTypes[] = {DType::kFloat32, DType::kFloat64, DType::kBFloat16};
  for (int round = 0; round < 300; ++round) {
    std::vector<ParameterSize> sizes(1 + below(40));
    for (ParameterSize& size : sizes) size = {static_cast<std::int64_t>(below(500)), kTypes[below(3)]};
    std::vector<std::size_t> order = reversed(sizes.size());
    std::ranges::shuffle(order, random);
    const BucketCaps caps{.first_bytes = below(500), .bytes = below(3000)};
    std::set<std::size_t> seen;
    std::set<DType> types_seen;
    std::size_t completed_before = 0;
    for (const BucketSpec& bucket : plan_buckets(sizes, order, caps)) {
      ASSERT_FALSE(bucket.parameters.empty());
      ASSERT_EQ(bucket.parameters.size(), bucket.offsets.size());
      const std::size_t cap = types_seen.insert(bucket.dtype).second ? caps.first_bytes : caps.bytes;
      std::int64_t end = 0;
      std::size_t bytes = 0;
      for (std::size_t i = 0; i < bucket.parameters.size(); ++i) {
        const ParameterSize& parameter = sizes[bucket.parameters[i]];
        EXPECT_TRUE(seen.insert(bucket.parameters[i]).second);
        EXPECT_EQ(parameter.dtype, bucket.dtype);
        EXPECT_EQ(static_cast<std::size_t>(bucket.offsets[i]) * size_of(bucket.dtype) % kSlotAlignment, 0u);
        EXPECT_GE(bucket.offsets[i], end);
        end = bucket.offsets[i] + parameter.numel;
        EXPECT_TRUE(i == 0 || bytes < cap);
        bytes += static_cast<std::size_t>(parameter.numel) * size_of(bucket.dtype);
      }
      EXPECT_LE(end, bucket.numel);
      EXPECT_GT(bucket.numel, 0);
      EXPECT_EQ(bucket.nbytes() % kSlotAlignment, 0u);
      const auto last = std::ranges::find(order, bucket.parameters.back()) - order.begin();
      EXPECT_LE(completed_before, static_cast<std::size_t>(last));
      completed_before = static_cast<std::size_t>(last);
    }
    EXPECT_EQ(seen.size(), sizes.size());
  }
}

}  // namespace
}  // namespace lockstep::ddp
