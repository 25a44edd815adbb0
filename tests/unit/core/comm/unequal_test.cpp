// all_gather, reduce_scatter and all_to_all with another count on every rank.

#include <array>
#include <deque>
#include <random>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/core/comm/collective_fixture.h"

namespace lockstep {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using testing::begin_of;
using testing::Buffer;
using ::testing::HasSubstr;
using testing::Pattern;
using ::testing::PrintToString;
using testing::reduction_of;
using testing::sum_of;

using CountList = std::vector<std::size_t>;

constexpr std::size_t kHuge = 300007;

class Unequal : public testing::CollectiveTest {
 protected:
  /// Counts of all ranks that are awkward in one way each.
  static std::vector<CountList> count_lists(std::size_t world) {
    std::vector<CountList> lists = {CountList(world, 0), CountList(world, 1), CountList(world, 1031)};
    CountList ramp(world);
    for (std::size_t r = 0; r < world; ++r) ramp[r] = 3 * r + 1;
    lists.push_back(ramp);
    for (const std::size_t alone : {std::size_t{0}, world / 2, world - 1}) {
      for (const std::size_t count : {std::size_t{1}, std::size_t{29}, std::size_t{5003}}) {
        CountList list(world, 0);
        list[alone] = count;
        lists.push_back(list);
      }
      CountList list(world, 1000);
      list[alone] = 0;
      lists.push_back(list);
    }
    std::mt19937 random(static_cast<unsigned>(world));
    for (const std::size_t limit : {std::size_t{30}, std::size_t{3000}, std::size_t{90000}}) {
      CountList list(world);
      for (std::size_t& count : list) count = random() % 4 == 0 ? 0 : random() % limit;
      lists.push_back(list);
    }
    CountList huge(world, 1);
    huge[world - 1] = kHuge;
    lists.push_back(huge);
    CountList huge_first(world, 0);
    huge_first[0] = kHuge;
    lists.push_back(huge_first);
    return lists;
  }
  static constexpr std::array<DType, 3> kDTypes = {DType::kFloat32, DType::kUInt8, DType::kFloat64};
  /// What every list of count_lists() fits in.
  static constexpr std::size_t capacity(std::size_t world) { return (kHuge + world * 90000) * 4; }
  static bool fits(const CountList& counts, DType dtype) {
    return sum_of(counts) * size_of(dtype) <= capacity(counts.size()) && (size_of(dtype) < 8 || sum_of(counts) < 20000);
  }
};

TEST_P(Unequal, AllGather) {
  on_all_ranks([&](Communicator& communicator, int rank, int world) {
    const auto p = static_cast<std::size_t>(world);
    const auto me = static_cast<std::size_t>(rank);
    Buffer input(communicator, shared(), capacity(p));
    Buffer output(communicator, shared(), capacity(p));
    for (const CountList& counts : count_lists(p)) {
      for (const DType dtype : kDTypes) {
        if (!fits(counts, dtype)) continue;
        for (const bool in_place : {false, true}) {
          input.prepare(counts[me] * size_of(dtype));
          output.prepare(sum_of(counts) * size_of(dtype));
          std::byte* const own = in_place ? output.at(begin_of(counts, me) * size_of(dtype)) : input.data();
          Pattern::of_rank(rank, dtype).write(own, counts[me]);
          // Who has no part needs no buffer.
          communicator.all_gather(counts[me] == 0 ? nullptr : own, output.data(), counts, dtype);
          for (std::size_t source = 0; source < p; ++source) {
            const std::byte* const part = output.at(begin_of(counts, source) * size_of(dtype));
            ASSERT_EQ(Pattern::of_rank(static_cast<int>(source), dtype).count_wrong(part, counts[source]), 0u)
                << PrintToString(counts) << ' ' << name_of(dtype) << " from " << source << " in place " << in_place;
          }
          ASSERT_TRUE(input.guards_hold() && output.guards_hold()) << PrintToString(counts);
        }
      }
    }
  });
}

TEST_P(Unequal, ReduceScatter) {
  on_all_ranks([&](Communicator& communicator, int rank, int world) {
    const auto p = static_cast<std::size_t>(world);
    const auto me = static_cast<std::size_t>(rank);
    Buffer input(communicator, shared(), capacity(p));
    Buffer output(communicator, shared(), capacity(p));
    const std::array<ReduceOp, 4> ops = {ReduceOp::kSum, ReduceOp::kMin, ReduceOp::kAvg, ReduceOp::kPreMulSum};
    std::size_t turn = 0;
    for (const CountList& counts : count_lists(p)) {
      for (const DType dtype : kDTypes) {
        if (!fits(counts, dtype)) continue;
        const ReduceOp op = ops[++turn % (is_floating(dtype) ? 4 : 2)];
        for (const bool in_place : {false, true}) {
          const std::size_t begin = begin_of(counts, me);
          Pattern::of_rank(rank, dtype, op).write(input.prepare(sum_of(counts) * size_of(dtype)), sum_of(counts));
          output.prepare(counts[me] * size_of(dtype));
          std::byte* const chunk = in_place ? input.at(begin * size_of(dtype)) : output.data();
          communicator.reduce_scatter(input.data(), counts[me] == 0 ? nullptr : chunk, counts, dtype,
                                      reduction_of(op, rank));
          ASSERT_EQ(Pattern::of_result(world, dtype, op).count_wrong(chunk, counts[me], begin), 0u)
              << PrintToString(counts) << ' ' << name_of(dtype) << ' ' << name_of(op) << " in place " << in_place;
          ASSERT_TRUE(input.guards_hold() && output.guards_hold()) << PrintToString(counts);
          ASSERT_EQ(Pattern::of_rank(rank, dtype, op).count_wrong(input.data(), begin), 0u) << "the input changed";
        }
      }
    }
  });
}

/// What rank s sends to rank d, row by row: from small to many pieces, with holes.
std::vector<std::vector<CountList>> matrices(std::size_t world) {
  std::vector<std::vector<CountList>> all;
  std::mt19937 random(static_cast<unsigned>(world) + 77u);
  for (const std::size_t limit : {std::size_t{1}, std::size_t{7}, std::size_t{900}, std::size_t{40000}}) {
    std::vector<CountList> matrix(world, CountList(world));
    for (CountList& row : matrix) {
      for (std::size_t& count : row) count = random() % 3 == 0 ? 0 : random() % (limit + 1);
    }
    all.push_back(matrix);
  }
  // One pair moves everything; a ring; only to oneself; one rank sends to all, one receives from all.
  std::vector<CountList> pair(world, CountList(world, 0));
  pair[world - 1][0] = kHuge;
  std::vector<CountList> ring(world, CountList(world, 0));
  std::vector<CountList> self(world, CountList(world, 0));
  std::vector<CountList> star(world, CountList(world, 0));
  for (std::size_t r = 0; r < world; ++r) {
    ring[r][(r + 1) % world] = 10007;
    self[r][r] = 3001 * r;
    star[0][r] = 2003;
    star[r][world - 1] = 4001;
  }
  all.insert(all.end(), {pair, ring, self, star, std::vector<CountList>(world, CountList(world, 0))});
  return all;
}

TEST_P(Unequal, AllToAll) {
  on_all_ranks([&](Communicator& communicator, int rank, int world) {
    const auto p = static_cast<std::size_t>(world);
    const auto me = static_cast<std::size_t>(rank);
    Buffer input(communicator, shared(), (kHuge + p * 40000) * 4);
    Buffer output(communicator, shared(), (kHuge + p * 40000) * 4);
    for (const std::vector<CountList>& sends : matrices(p)) {
      for (const DType dtype : {DType::kInt32, DType::kBool}) {
        CountList receives(p);
        for (std::size_t source = 0; source < p; ++source) receives[source] = sends[source][me];
        const std::size_t out = sum_of(sends[me]);
        const std::size_t in = sum_of(receives);
        Pattern::of_rank(rank, dtype).write(input.prepare(out * size_of(dtype)), out);
        output.prepare(in * size_of(dtype));
        communicator.all_to_all(out == 0 ? nullptr : input.data(), sends[me], in == 0 ? nullptr : output.data(),
                                receives, dtype);
        for (std::size_t source = 0; source < p; ++source) {
          const std::byte* const part = output.at(begin_of(receives, source) * size_of(dtype));
          const std::size_t offset = begin_of(sends[source], me);
          ASSERT_EQ(Pattern::of_rank(static_cast<int>(source), dtype).count_wrong(part, receives[source], offset), 0u)
              << PrintToString(sends) << ' ' << name_of(dtype) << " from " << source;
        }
        ASSERT_TRUE(output.guards_hold()) << PrintToString(sends);
        ASSERT_EQ(Pattern::of_rank(rank, dtype).count_wrong(input.data(), out), 0u) << "the input changed";
      }
    }
  });
}

// A rank with nothing to send has no say, and sizes are nobody else's business: each rank's memory is its own choice.
TEST_P(Unequal, AllToAllFromBothKindsOfMemory) {
  on_all_ranks([&](Communicator& communicator, int rank, int world) {
    const auto p = static_cast<std::size_t>(world);
    const auto me = static_cast<std::size_t>(rank);
    for (const std::size_t count : {std::size_t{2}, std::size_t{700}, std::size_t{90001}}) {
      Buffer backend(communicator, true, p * count * 4);
      Buffer user(communicator, false, p * count * 4);
      Buffer& input = rank % 2 == 0 ? backend : user;
      Buffer output(communicator, shared(), p * count * 4);
      // Ranks 2, 5, .. send nothing.
      const CountList sends(p, rank % 3 == 2 ? 0 : count);
      CountList receives(p, count);
      for (std::size_t source = 2; source < p; source += 3) receives[source] = 0;
      Pattern::of_rank(rank, DType::kInt32).write(input.data(), sum_of(sends));
      output.prepare(sum_of(receives) * 4);
      communicator.all_to_all(input.data(), sends, output.data(), receives, DType::kInt32);
      for (std::size_t source = 0; source < p; ++source) {
        const std::byte* const part = output.at(begin_of(receives, source) * 4);
        ASSERT_EQ(
            Pattern::of_rank(static_cast<int>(source), DType::kInt32).count_wrong(part, receives[source], me * count),
            0u)
            << count << " from " << source;
      }
      ASSERT_TRUE(output.guards_hold());
      // Whoever is through may write to its input at once.
      input.prepare(input.capacity());
    }
  });
}

// Started, not waited for: the lists of counts may go at once.
TEST_P(Unequal, ManyInFlightNeedTheirBuffersOnly) {
  on_all_ranks([&](Communicator& communicator, int rank, int world) {
    const auto p = static_cast<std::size_t>(world);
    const auto me = static_cast<std::size_t>(rank);
    constexpr std::size_t kRounds = 20;
    const auto counts_of = [&](std::size_t round) {
      CountList counts(p);
      for (std::size_t r = 0; r < p; ++r) counts[r] = (round * 997 + r * 1009) % 20000;
      return counts;
    };
    const Pattern& mine = Pattern::of_rank(rank, DType::kFloat32);
    std::deque<std::vector<float>> buffers;
    std::vector<Work> works;
    for (std::size_t round = 0; round < kRounds; ++round) {
      CountList counts = counts_of(round);
      const std::size_t sum = sum_of(counts);
      auto& input = buffers.emplace_back(sum + counts[me] * p + 1);
      auto& output = buffers.emplace_back(sum + counts[me] * p + 1);
      mine.write(input.data(), input.size());
      CountList to_each(p, counts[me]);
      if (round % 3 == 0) {
        works.push_back(communicator.all_gather_async(input.data(), output.data(), counts, DType::kFloat32));
      } else if (round % 3 == 1) {
        works.push_back(communicator.reduce_scatter_async(input.data(), output.data(), counts, DType::kFloat32));
      } else {
        works.push_back(communicator.all_to_all_async(input.data(), to_each, output.data(), counts, DType::kFloat32));
      }
      std::fill(counts.begin(), counts.end(), std::size_t{987654321});
      std::fill(to_each.begin(), to_each.end(), std::size_t{987654321});
    }
    works.back().wait();
    for (std::size_t round = 0; round < kRounds; ++round) {
      ASSERT_TRUE(works[round].done());
      const CountList counts = counts_of(round);
      const float* const output = buffers[2 * round + 1].data();
      if (round % 3 == 1) {
        const Pattern& result = Pattern::of_result(world, DType::kFloat32);
        ASSERT_EQ(result.count_wrong(output, counts[me], begin_of(counts, me)), 0u) << "round " << round;
        continue;
      }
      for (std::size_t source = 0; source < p; ++source) {
        const Pattern& theirs = Pattern::of_rank(static_cast<int>(source), DType::kFloat32);
        const std::size_t offset = round % 3 == 0 ? 0 : me * counts[source];
        ASSERT_EQ(theirs.count_wrong(output + begin_of(counts, source), counts[source], offset), 0u)
            << "round " << round << " from " << source;
      }
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Worlds, Unequal, testing::all_worlds(), testing::name_of_world);

TEST(Unequal, ListsMustHaveOneCountARank) {
  testing::on_ranks(2, [](Communicator& communicator, int rank, int) {
    std::vector<float> in(20, static_cast<float>(rank));
    std::vector<float> out(20);
    const CountList good = {5, 5};
    for (const CountList& bad : {CountList{}, CountList{10}, CountList{5, 5, 0}}) {
      EXPECT_THROW(communicator.all_gather(in.data(), out.data(), bad, DType::kFloat32), UsageError);
      EXPECT_THROW(communicator.reduce_scatter(in.data(), out.data(), bad, DType::kFloat32), UsageError);
      EXPECT_THROW(communicator.all_to_all(in.data(), bad, out.data(), good, DType::kFloat32), UsageError);
      EXPECT_THROW(communicator.all_to_all(in.data(), good, out.data(), bad, DType::kFloat32), UsageError);
    }
    // A part that is not empty needs a buffer.
    const CountList none = {0, 0};
    EXPECT_THROW(communicator.all_gather(nullptr, out.data(), good, DType::kFloat32), UsageError);
    EXPECT_THROW(communicator.all_gather(in.data(), nullptr, good, DType::kFloat32), UsageError);
    EXPECT_THROW(communicator.reduce_scatter(nullptr, out.data(), good, DType::kFloat32), UsageError);
    EXPECT_THROW(communicator.reduce_scatter(in.data(), nullptr, good, DType::kFloat32), UsageError);
    EXPECT_THROW(communicator.all_to_all(nullptr, good, out.data(), none, DType::kFloat32), UsageError);
    EXPECT_THROW(communicator.all_to_all(in.data(), none, nullptr, good, DType::kFloat32), UsageError);
    communicator.all_gather(in.data(), out.data(), good, DType::kFloat32);
    EXPECT_EQ(out[4], 0.0f);
    EXPECT_EQ(out[5], 1.0f);
  });
}

/// Each rank's call, or its next one, must throw a MismatchError with all of `parts`.
template <typename Call>
void expect_mismatch(int world, const std::vector<std::string>& parts, Call call) {
  testing::on_ranks(world, [&](Communicator& communicator, int rank, int) {
    std::vector<float> in(1000000);
    std::vector<float> out(1000000);
    try {
      call(communicator, rank, in.data(), out.data());
      communicator.barrier();  // A rank whose own parts agree may be through before the others find out.
      ADD_FAILURE() << "rank " << rank << ": no error";
    } catch (const MismatchError& error) {
      for (const std::string& part : parts) EXPECT_THAT(error.what(), HasSubstr(part)) << "rank " << rank;
    }
    EXPECT_THROW(communicator.barrier(), AbortedError);
  });
}

TEST(Unequal, AllToAllNamesBothSidesOfASplitThatDisagrees) {
  // Rank 2 sends one element more, or less, to rank 0 than that one expects; in small and in many pieces.
  for (const std::size_t count : {std::size_t{1}, std::size_t{10}, std::size_t{5000}, std::size_t{200000}}) {
    for (const int difference : {1, -1}) {
      const std::size_t sent = count + static_cast<std::size_t>(difference);
      expect_mismatch(3, {"rank 2", "rank 0", std::to_string(sent), std::to_string(count)},
                      [&](Communicator& communicator, int rank, float* in, float* out) {
                        CountList sends(3, count);
                        const CountList receives(3, count);
                        if (rank == 2) sends[0] = sent;
                        communicator.all_to_all(in, sends, out, receives, DType::kFloat32);
                      });
    }
  }
}

TEST(Unequal, AllToAllOfOneRankTellsOfASplitThatDisagrees) {
  for (const std::size_t sent : {std::size_t{0}, std::size_t{2}}) {
    for (const std::size_t expected : {std::size_t{0}, std::size_t{5}}) {
      if (sent == expected) continue;
      testing::on_ranks(1, [&](Communicator& communicator, int, int) {
        const std::array<float, 5> in{};
        std::array<float, 5> out{};
        try {
          communicator.all_to_all(in.data(), CountList{sent}, out.data(), CountList{expected}, DType::kFloat32);
          ADD_FAILURE() << "no error for " << sent << " and " << expected;
        } catch (const MismatchError& error) {
          EXPECT_THAT(error.what(), AllOf(HasSubstr("sends " + std::to_string(sent)),
                                          HasSubstr("expects " + std::to_string(expected))));
        }
      });
    }
  }
}

TEST(Unequal, ListsThatDifferNameBothSides) {
  // The sums agree, so that only the lists tell.
  for (const std::size_t count : {std::size_t{10}, std::size_t{100000}}) {
    const CountList one = {count, count + 3, count};
    const CountList other = {count, count, count + 3};
    expect_mismatch(3, {"all_gather #1", "rank 1"}, [&](Communicator& communicator, int rank, float* in, float* out) {
      communicator.all_gather(in, out, rank == 1 ? other : one, DType::kFloat32);
    });
    expect_mismatch(3, {"reduce_scatter #1", "rank 1"},
                    [&](Communicator& communicator, int rank, float* in, float* out) {
                      communicator.reduce_scatter(in, out, rank == 1 ? other : one, DType::kFloat32);
                    });
  }
}

}  // namespace
}  // namespace lockstep
