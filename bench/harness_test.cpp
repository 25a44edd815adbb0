#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

#include "apps/lockstep/bench/model.h"
#include "apps/lockstep/bench/pattern.h"
#include "apps/lockstep/bench/sweep.h"
#include "lockstep/core/base/error.h"

namespace lockstep::bench {
namespace {

std::vector<std::size_t> counts_of(const SweepOptions& options) {
  std::vector<std::size_t> counts;
  for (const SizePlan& size : plan_sizes(options)) counts.push_back(size.count);
  return counts;
}

TEST(BenchSizes, GrowByTheFactorAndStopAtTheLargest) {
  EXPECT_EQ(counts_of({.min_bytes = 4, .max_bytes = 300, .step_factor = 4}), (std::vector<std::size_t>{1, 4, 16, 64}));
}

TEST(BenchSizes, AreWholeElementsPerRankAndListedOnce) {
  const SweepOptions options{
      .op = OpKind::kAllGather, .world_size = 3, .min_bytes = 1, .max_bytes = 64, .step_factor = 2};
  const auto sizes = plan_sizes(options);
  EXPECT_EQ(counts_of(options), (std::vector<std::size_t>{1, 2, 5}));
  EXPECT_EQ(sizes.back().bytes, 60u);
}

TEST(BenchSizes, ABarrierHasOne) {
  const auto sizes = plan_sizes({.op = OpKind::kBarrier});
  ASSERT_EQ(sizes.size(), 1u);
  EXPECT_EQ(sizes.front().bytes, 0u);
}

TEST(BenchPattern, SumsWhatTheRanksContribute) {
  constexpr std::size_t kCount = 1000;
  std::vector<std::int32_t> sum(kCount, 0);
  for (int rank = 0; rank < 3; ++rank) {
    std::vector<std::int32_t> input(kCount);
    Pattern::input(DType::kInt32, ReduceOp::kSum, rank, 3).fill(input.data(), 17, kCount);
    for (std::size_t i = 0; i < kCount; ++i) sum[i] += input[i];
  }
  EXPECT_EQ(Pattern::reduced(DType::kInt32, ReduceOp::kSum, 3).count_wrong(sum.data(), 17, kCount), 0u);
}

TEST(BenchPattern, CountsEveryWrongElement) {
  constexpr std::size_t kCount = 100'003;
  const Pattern pattern = Pattern::input(DType::kFloat32, ReduceOp::kSum, 1, 2);
  std::vector<float> data(kCount);
  pattern.fill(data.data(), 0, kCount);
  EXPECT_EQ(pattern.count_wrong(data.data(), 0, kCount), 0u);
  for (const std::size_t at : {std::size_t{0}, std::size_t{4096}, kCount - 1}) data[at] += 1;
  EXPECT_EQ(pattern.count_wrong(data.data(), 0, kCount), 3u);
}

TEST(BenchPattern, TellsRanksApart) {
  std::vector<float> data(1000);
  Pattern::input(DType::kFloat32, ReduceOp::kSum, 0, 2).fill(data.data(), 0, data.size());
  EXPECT_GT(Pattern::input(DType::kFloat32, ReduceOp::kSum, 1, 2).count_wrong(data.data(), 0, data.size()), 500u);
}

TEST(BenchOptions, ParsesSizes) {
  EXPECT_EQ(parse_bytes("4"), 4u);
  EXPECT_EQ(parse_bytes("64K"), 65536u);
  EXPECT_EQ(parse_bytes("3MiB"), 3u << 20);
  EXPECT_EQ(format_bytes(parse_bytes("256M")), "256 MiB");
  for (const char* text : {"", "K", "4k", "4Kb", "-1", "99999999999G"})
    EXPECT_THROW(parse_bytes(text), UsageError) << text;
}

TEST(BenchModel, TakesTheLesserOfThePlans) {
  MachineLimits limits;
  limits.measured = true;
  limits.handoff_ns = 100;
  limits.remote = {{16 << 10, 10, 10}, {1 << 20, 10, 10}};
  const SweepOptions options;
  // One hand-off while it is cheaper to send all of it than to wait twice: 0.1 + 4 B / 10 GB/s.
  EXPECT_NEAR(*model_us(options, MemoryKind::kBackend, 4, limits), 0.1004, 1e-6);
  // Two hand-offs and half of the vector.
  EXPECT_NEAR(*model_us(options, MemoryKind::kBackend, 1'000'000, limits), 0.2 + 50, 1e-6);
  EXPECT_GT(*model_us(options, MemoryKind::kUser, 1'000'000, limits),
            *model_us(options, MemoryKind::kBackend, 1'000'000, limits));
  EXPECT_FALSE(model_us({.world_size = 1}, MemoryKind::kBackend, 4, limits).has_value());
  EXPECT_FALSE(model_us(options, MemoryKind::kBackend, 4, MachineLimits{}).has_value());
}

}  // namespace
}  // namespace lockstep::bench
