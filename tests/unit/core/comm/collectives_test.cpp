// Many operations in flight on one communicator: they complete in order, and each sees what those before it left.

#include <array>
#include <vector>

#include <gtest/gtest.h>

#include "tests/unit/core/comm/collective_fixture.h"

namespace lockstep {
namespace {

using testing::Buffer;
using testing::Pattern;

constexpr DType kFloat = DType::kFloat32;
constexpr DType kInt = DType::kInt32;

class Collectives : public testing::CollectiveTest {};

TEST_P(Collectives, ManyInFlightCompleteInOrder) {
  on_all_ranks([&](Communicator& communicator, int rank, int world) {
    constexpr std::size_t kInFlight = 300;  // More than the engine holds: starting must make room.
    constexpr std::size_t kCount = 5000;
    Buffer data(communicator, shared(), kInFlight * kCount * 4);
    std::vector<Work> works;
    for (std::size_t k = 0; k < kInFlight; ++k) {
      std::byte* const part = data.at(k * kCount * 4);
      Pattern::of_rank(rank, kFloat).write(part, kCount, k);
      works.push_back(communicator.all_reduce_async(part, part, kCount, kFloat));
    }
    works.back().wait();
    for (std::size_t k = 0; k < kInFlight; ++k) {
      ASSERT_TRUE(works[k].done());
      ASSERT_EQ(works[k].sequence(), works[0].sequence() + k);
      ASSERT_EQ(Pattern::of_result(world, kFloat).count_wrong(data.at(k * kCount * 4), kCount, k), 0u);
    }
  });
}

TEST_P(Collectives, OperationsOnOneBufferKeepTheirOrder) {
  on_all_ranks([&](Communicator& communicator, int rank, int world) {
    // Sum, then sum of the sums, then broadcast: each must see the result of the one before.
    for (const std::size_t count : {std::size_t{5}, std::size_t{1000}, std::size_t{200003}}) {
      Buffer data(communicator, shared(), count * 4);
      Pattern::of_rank(rank, kInt).write(data.data(), count);
      communicator.all_reduce_async(data.data(), data.data(), count, kInt);
      communicator.all_reduce_async(data.data(), data.data(), count, kInt);
      Work last = communicator.broadcast_async(data.data(), count, kInt, world - 1);
      last.wait();
      const Pattern want(kInt,
                         [&](std::size_t i) { return world * testing::expected(i, world, ReduceOp::kSum, kInt); });
      ASSERT_EQ(want.count_wrong(data.data(), count), 0u);
    }
  });
}

// A chain through every kind, each reading what the one before it writes, all started before any is waited for.
TEST_P(Collectives, AChainOfEveryKindInFlight) {
  on_all_ranks([&](Communicator& communicator, int rank, int world) {
    const auto p = static_cast<std::size_t>(world);
    const auto me = static_cast<std::size_t>(rank);
    for (const std::size_t count : {std::size_t{1}, std::size_t{700}, std::size_t{50021}}) {
      const std::size_t nbytes = count * 4;
      Buffer a(communicator, shared(), p * nbytes);
      Buffer b(communicator, shared(), p * nbytes);
      Buffer c(communicator, shared(), p * nbytes);
      Pattern::of_rank(rank, kInt).write(a.data(), p * count);
      const int root = world - 1;
      const int other = world / 2;
      communicator.all_to_all_async(a.data(), b.data(), count, kInt);  // b: part s is rank s's part me
      communicator.all_to_all_async(b.data(), c.data(), count, kInt);  // c: what a was
      communicator.reduce_scatter_async(c.data(), b.data(), count, kInt);
      communicator.all_gather_async(b.data(), a.data(), count, kInt);  // a: the sum of all
      communicator.gather_async(a.at(me * nbytes), c.data(), count, kInt, root);
      communicator.scatter_async(c.data(), b.data(), count, kInt, root);  // b: my part of the sum
      communicator.barrier_async();
      communicator.reduce_async(a.data(), c.data(), p * count, kInt, other);  // c at other: p times the sum
      Work last = communicator.broadcast_async(c.data(), p * count, kInt, other);
      last.wait();
      const Pattern& sum = Pattern::of_result(world, kInt);
      const Pattern sums(kInt,
                         [&](std::size_t i) { return world * testing::expected(i, world, ReduceOp::kSum, kInt); });
      ASSERT_EQ(sum.count_wrong(a.data(), p * count), 0u) << count;
      ASSERT_EQ(sum.count_wrong(b.data(), count, me * count), 0u) << count;
      ASSERT_EQ(sums.count_wrong(c.data(), p * count), 0u) << count;
    }
  });
}

// A rank that is far ahead of another (it starts all it has, the other waits for each) changes nothing.
TEST_P(Collectives, RanksThatWaitDifferentlyAgree) {
  on_all_ranks([&](Communicator& communicator, int rank, int world) {
    constexpr std::size_t kRounds = 100;
    const std::array<std::size_t, 5> counts = {1, 30, 2000, 9000, 70001};
    std::vector<std::vector<std::int32_t>> data;
    std::vector<Work> works;
    for (std::size_t round = 0; round < kRounds; ++round) {
      auto& buffer = data.emplace_back(counts[round % counts.size()]);
      const int root = static_cast<int>(round) % world;
      Pattern::of_rank(rank, kInt).write(buffer.data(), buffer.size(), round);
      if (round % 3 == 0) {
        works.push_back(communicator.broadcast_async(buffer.data(), buffer.size(), kInt, root));
      } else if (round % 3 == 1) {
        works.push_back(communicator.all_reduce_async(buffer.data(), buffer.data(), buffer.size(), kInt));
      } else {
        works.push_back(communicator.reduce_async(buffer.data(), buffer.data(), buffer.size(), kInt, root));
      }
      if (rank % 3 == 1) works.back().wait();
      if (rank % 3 == 2 && round % 7 == 6) works[round - 3].wait();
    }
    for (std::size_t round = kRounds; round-- > 0;) {
      works[round].wait();
      const int root = static_cast<int>(round) % world;
      const Pattern& sum = Pattern::of_result(world, kInt);
      const Pattern& mine = Pattern::of_rank(rank, kInt);
      const Pattern& theirs = Pattern::of_rank(root, kInt);
      const Pattern& want = round % 3 == 0 ? theirs : (round % 3 == 1 || rank == root ? sum : mine);
      ASSERT_EQ(want.count_wrong(data[round].data(), data[round].size(), round), 0u) << "round " << round;
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Worlds, Collectives, testing::all_worlds(), testing::name_of_world);

}  // namespace
}  // namespace lockstep
