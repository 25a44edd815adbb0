#include "lockstep/parallel/data/distributed_sampler.h"

#include <fstream>
#include <functional>
#include <limits>
#include <memory>
#include <set>
#include <sstream>
#include <string>

#include <gtest/gtest.h>

#include "lockstep/core/backend/self/self_backend.h"
#include "lockstep/core/base/error.h"
#include "lockstep/parallel/group/process_group.h"

namespace lockstep {
namespace {

using Lists = std::vector<std::vector<std::int64_t>>;

struct Case {
  std::size_t samples;
  int ranks;
  DistributedSamplerOptions options;
  std::uint64_t epoch;
};

Lists lists(const Case& wanted) {
  Lists result;
  for (int rank = 0; rank < wanted.ranks; ++rank) {
    DistributedSampler sampler(wanted.samples, rank, wanted.ranks, wanted.options);
    sampler.set_epoch(wanted.epoch);
    result.push_back(sampler.indices());
    EXPECT_EQ(sampler.size(), result.back().size());
  }
  return result;
}

std::string checksum(const Lists& rank_lists) {
  std::uint64_t value = 0xCBF29CE484222325;
  const auto add = [&value](std::uint64_t number) { value = (value ^ number) * 0x100000001B3; };
  for (const auto& indices : rank_lists) {
    add(indices.size());
    for (const std::int64_t index : indices) add(static_cast<std::uint64_t>(index));
  }
  std::ostringstream text;
  text << std::hex;
  text.width(16);
  text.fill('0');
  text << value;
  return text.str();
}

std::string print(const Lists& rank_lists) {
  std::string text;
  for (const auto& indices : rank_lists) {
    text += text.empty() ? "" : " /";
    for (const std::int64_t index : indices) text += ' ' + std::to_string(index);
    if (indices.empty()) text += " -";
  }
  return text;
}

// make_sampler_golden.py wrote the file with torch.utils.data.DistributedSampler and explains its lines.
TEST(DistributedSampler, EqualsPythonIndexForIndex) {
  std::ifstream file(LOCKSTEP_SAMPLER_GOLDEN);
  std::string line;
  std::getline(file, line);
  ASSERT_EQ(line.rfind("torch ", 0), 0U) << LOCKSTEP_SAMPLER_GOLDEN;
  int cases = 0;
  while (std::getline(file, line)) {
    SCOPED_TRACE(line);
    std::istringstream words(line);
    Case wanted{};
    std::string sign;
    words >> wanted.samples >> wanted.ranks >> wanted.options.shuffle >> wanted.options.seed >> wanted.epoch >>
        wanted.options.drop_last >> sign;
    std::string expected;
    std::getline(words, expected);
    ASSERT_TRUE(sign == ":" || sign == "#");
    const Lists actual = lists(wanted);
    ASSERT_EQ(sign == ":" ? print(actual) : ' ' + checksum(actual), expected);
    ++cases;
  }
  EXPECT_EQ(cases, 988);
}

TEST(DistributedSampler, RanksTogetherCoverEverySampleAndPaddingIsWhatIsLeftOver) {
  for (std::size_t samples = 1; samples <= 40; ++samples) {
    for (int ranks = 1; ranks <= 45; ++ranks) {
      for (const bool shuffle : {false, true}) {
        SCOPED_TRACE(testing::Message() << samples << " samples, " << ranks << " ranks, shuffle " << shuffle);
        std::multiset<std::int64_t> seen;
        for (int rank = 0; rank < ranks; ++rank) {
          const DistributedSampler sampler(samples, rank, ranks, {.shuffle = shuffle, .seed = 3});
          const auto indices = sampler.indices();
          ASSERT_LE(sampler.padding(), indices.size());
          seen.insert(indices.begin(), indices.end() - static_cast<std::ptrdiff_t>(sampler.padding()));
        }
        std::multiset<std::int64_t> all;
        for (std::size_t index = 0; index < samples; ++index) all.insert(static_cast<std::int64_t>(index));
        ASSERT_EQ(seen, all);
      }
    }
  }
}

TEST(DistributedSampler, DropLastNeverRepeats) {
  for (std::size_t samples = 1; samples <= 40; ++samples) {
    for (int ranks = 1; ranks <= 45; ++ranks) {
      std::set<std::int64_t> seen;
      for (int rank = 0; rank < ranks; ++rank) {
        const DistributedSampler sampler(samples, rank, ranks, {.drop_last = true});
        ASSERT_EQ(sampler.size(), samples / static_cast<std::size_t>(ranks));
        ASSERT_EQ(sampler.padding(), 0U);
        for (const std::int64_t index : sampler.indices()) ASSERT_TRUE(seen.insert(index).second) << index;
      }
    }
  }
}

TEST(DistributedSampler, EpochChoosesTheOrder) {
  DistributedSampler sampler(100, 1, 3);
  EXPECT_EQ(sampler.epoch(), 0U);
  const auto first = sampler.indices();
  EXPECT_EQ(sampler.indices(), first) << "asking twice changes nothing";
  sampler.set_epoch(1);
  EXPECT_NE(sampler.indices(), first);
  EXPECT_EQ(sampler.indices(), DistributedSampler(100, 1, 3, {.seed = 1}).indices()) << "seed + epoch is what counts";
  sampler.set_epoch(0);
  EXPECT_EQ(sampler.indices(), first);
}

std::string warnings_of(const std::function<void()>& call) {
  testing::internal::CaptureStderr();
  call();
  return testing::internal::GetCapturedStderr();
}

TEST(DistributedSampler, SaysOnceThatTheOrderRepeats) {
  DistributedSampler sampler(100, 0, 3);
  EXPECT_EQ(warnings_of([&] { (void)sampler.indices(); }), "");
  const std::string warning = warnings_of([&] { (void)sampler.indices(); });
  EXPECT_NE(warning.find("call set_epoch(epoch) before each epoch"), std::string::npos) << warning;
  EXPECT_EQ(warnings_of([&] { (void)sampler.indices(); }), "") << "once";
}

TEST(DistributedSampler, SaysNothingWhereTheOrderIsMeantToRepeatOrDoesNot) {
  EXPECT_EQ(warnings_of([] {
              DistributedSampler sampler(100, 0, 3);
              for (std::uint64_t epoch = 0; epoch < 3; ++epoch) {
                sampler.set_epoch(epoch);
                (void)sampler.indices();
              }
              (void)DistributedSampler(sampler).indices();
              const DistributedSampler in_order(100, 0, 3, {.shuffle = false});
              (void)in_order.indices();
              (void)in_order.indices();
              const DistributedSampler other_rank(100, 1, 3);
              (void)other_rank.indices();
              (void)other_rank.indices();
            }),
            "");
}

TEST(DistributedSampler, SeedPlusEpochWraps) {
  DistributedSampler sampler(50, 0, 1, {.seed = std::numeric_limits<std::uint64_t>::max()});
  sampler.set_epoch(1);
  EXPECT_EQ(sampler.indices(), DistributedSampler(50, 0, 1).indices());
}

TEST(DistributedSampler, TakesRankAndWorldSizeFromTheGroup) {
  const ProcessGroup group(Communicator::create(make_self_backend(), {}));
  EXPECT_EQ(DistributedSampler(11, group).indices(), DistributedSampler(11, 0, 1).indices());
}

void expect_usage_error(std::size_t samples, int rank, int ranks, const std::string& text) {
  try {
    const DistributedSampler sampler(samples, rank, ranks);
    FAIL() << "no error for " << samples << " samples, rank " << rank << " of " << ranks;
  } catch (const UsageError& error) {
    EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
  }
}

TEST(DistributedSampler, RejectsWhatCannotBeSplit) {
  expect_usage_error(0, 0, 1, "the dataset is empty");
  expect_usage_error(0, 2, 4, "the dataset is empty");
  expect_usage_error(5, 0, 0, "world_size is 0");
  expect_usage_error(5, 0, -1, "world_size is -1");
  expect_usage_error(5, 3, 3, "rank 3 is outside [0, 3)");
  expect_usage_error(5, -1, 3, "rank -1 is outside [0, 3)");
  expect_usage_error(std::numeric_limits<std::size_t>::max(), 0, 1, "cannot be indexed");
}

}  // namespace
}  // namespace lockstep
