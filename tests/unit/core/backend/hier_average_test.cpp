// Averages whose sum has no place in float16, over hosts, where sums lie in buffers between the steps.

#include <algorithm>
#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

#include "tests/unit/core/comm/collective_fixture.h"

namespace lockstep {
namespace {

using testing::Pattern;
using testing::World;

constexpr DType kHalf = DType::kFloat16;
constexpr std::size_t kPart = 1031;

class HierAverage : public ::testing::TestWithParam<World> {};

TEST_P(HierAverage, OfFloat16FitsWhereItsSumDoesNot) {
  // 2^-8 is the other end: what makes room at the top must not cost a normal number its digits.
  for (const double value : {20000.0, -49152.0, 0x1.8p-8}) {
    testing::on_ranks(GetParam(), [value](Communicator& communicator, int rank, int world) {
      const std::size_t whole = kPart * static_cast<std::size_t>(world);
      const Pattern pattern(kHalf, [value](std::size_t i) { return i % 3 == 0 ? value : value / 2; });
      std::vector<std::uint16_t> in(whole);
      pattern.write(in.data(), whole);
      std::vector<std::uint16_t> out(whole);
      communicator.all_reduce(in.data(), out.data(), whole, kHalf, ReduceOp::kAvg);
      EXPECT_EQ(pattern.count_wrong(out.data(), whole), 0u) << "all_reduce of " << value;
      for (int root = 0; root < world; ++root) {
        std::ranges::fill(out, std::uint16_t{0});
        communicator.reduce(in.data(), out.data(), whole, kHalf, root, ReduceOp::kAvg);
        if (rank != root) continue;
        EXPECT_EQ(pattern.count_wrong(out.data(), whole), 0u) << "reduce of " << value;
      }
      communicator.reduce_scatter(in.data(), out.data(), kPart, kHalf, ReduceOp::kAvg);
      EXPECT_EQ(pattern.count_wrong(out.data(), kPart, kPart * static_cast<std::size_t>(rank)), 0u)
          << "reduce_scatter of " << value;
    });
  }
}

INSTANTIATE_TEST_SUITE_P(Worlds, HierAverage,
                         ::testing::Values(World{4, false, "hier", {0, 0, 1, 1}}, World{3, false, "hier", {0, 1, 0}},
                                           World{5, true, "hier", {0, 0, 1, 1, 2}}),
                         testing::name_of_world);

}  // namespace
}  // namespace lockstep
