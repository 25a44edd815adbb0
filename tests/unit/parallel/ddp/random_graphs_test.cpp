// Random modules with branches, reuse, unused and frozen parameters and recomputed parts, trained in random ways: each
// rank ends every step with what one process computes for it.

#include <algorithm>
#include <map>
#include <mutex>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/random_training.h"
#include "tests/unit/parallel/group/rank_threads.h"

namespace lockstep {
namespace {

using support::GraphSpec;
using support::random_graph_spec;
using support::TrainingRecord;

constexpr unsigned kParts = 10;

GraphSpec graph_of(unsigned seed) { return random_graph_spec(seed, 1 + static_cast<int>(seed % 4)); }

class RandomGraphs : public ::testing::TestWithParam<unsigned> {};
INSTANTIATE_TEST_SUITE_P(Seeds, RandomGraphs, ::testing::Range(0u, kParts));

TEST_P(RandomGraphs, TrainAsOneProcessDoes) {
  at::set_num_threads(1);
  for (unsigned i = 0; i < LOCKSTEP_RANDOM_GRAPHS / kParts; ++i) {
    const GraphSpec spec = graph_of(GetParam() + kParts * i);
    std::ostringstream text;
    text << spec;
    const std::vector<TrainingRecord> expected = support::train_random_graph_alone(spec);
    std::vector<TrainingRecord> got(static_cast<std::size_t>(spec.world));
    ASSERT_NO_THROW(test::run_rank_threads(spec.world, [&](const auto& group) {
      got[static_cast<std::size_t>(group->rank())] = support::train_random_graph(spec, group);
    })) << text.str();
    for (std::size_t rank = 0; rank < got.size(); ++rank) {
      EXPECT_EQ(support::difference(spec, expected[rank], got[rank]), "") << text.str() << ", rank " << rank;
    }
  }
}

// A feature that the dice never show is not tested.
TEST(RandomGraphsCover, EveryFeatureManyTimes) {
  std::map<std::string, int> counts;
  for (unsigned seed = 0; seed < 500; ++seed) {
    for (const std::string& feature : support::features_of(graph_of(seed))) ++counts[feature];
  }
  EXPECT_EQ(counts.size(), 27u);
  for (const auto& [feature, count] : counts) EXPECT_GE(count, 20) << feature;
}

}  // namespace
}  // namespace lockstep
