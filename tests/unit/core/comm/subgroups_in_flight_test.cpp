// Operations of many groups in flight at once. A rank that waits in one group moves what it has started in others, or
// ranks that wait in different groups would wait for each other.

#include <algorithm>
#include <array>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/unit/core/comm/subgroup_testing.h"

namespace lockstep {
namespace {

using testing::contains;
using testing::Flight;
using testing::Group;
using testing::kManyPieces;
using testing::members_of;
using testing::on_ranks;
using testing::Pattern;
using testing::Ranks;

constexpr DType kInt = DType::kInt32;

TEST(SubgroupsInFlight, WaitingInOneGroupMovesTheOthers) {
  on_ranks(2, [](Communicator& world, int rank, int) {
    const Group a = new_group(world, Ranks{0, 1});
    const Group b = new_group(world, Ranks{1, 0});
    for (int round = 0; round < 3; ++round) {
      Flight flight(*a, kManyPieces);
      // Rank 1 waits for its pieces in a, rank 0 for rank 1 in b.
      if (rank == 1) flight.wait();
      b->barrier();
      flight.wait();
      ASSERT_EQ(flight.count_wrong(), 0u);
    }
  });
}

TEST(SubgroupsInFlight, WaitingInOneGroupMovesTheMessagesOfOthers) {
  on_ranks(2, [](Communicator& world, int rank, int) {
    const Group a = new_group(world, Ranks{0, 1});
    const Group b = new_group(world, Ranks{0, 1});
    std::vector<std::int32_t> data(kManyPieces, rank);
    if (rank == 0) {
      Work sent = a->send_async(data.data(), data.size(), kInt, 1);
      b->barrier();
      sent.wait();
      // And the other way round: a receive in flight while its sender waits for it.
      Work received = a->recv_async(data.data(), data.size(), kInt, 1);
      b->barrier();
      received.wait();
      ASSERT_EQ(data, std::vector<std::int32_t>(kManyPieces, 1));
    } else {
      std::vector<std::int32_t> in(kManyPieces, -1);
      a->recv(in.data(), in.size(), kInt, 0);
      ASSERT_EQ(in, std::vector<std::int32_t>(kManyPieces, 0));
      b->barrier();
      a->send(data.data(), data.size(), kInt, 0);
      b->barrier();
    }
  });
}

TEST(SubgroupsInFlight, WaitingForAMessageMovesCollectivesOfItsOwnAndOtherGroups) {
  on_ranks(2, [](Communicator& world, int rank, int) {
    const Group a = new_group(world, Ranks{0, 1});
    Flight own(world, kManyPieces);
    Flight other(*a, kManyPieces, 5);
    std::int32_t x = rank;
    if (rank == 1) {
      own.wait();
      other.wait();
      world.send(&x, 1, kInt, 0);
    } else {
      world.recv(&x, 1, kInt, 1);
      own.wait();
      other.wait();
    }
    EXPECT_EQ(x, 1);
    EXPECT_EQ(own.count_wrong() + other.count_wrong(), 0u);
  });
}

// A group forms only when all its members have come: until then a member moves what others wait for.
TEST(SubgroupsInFlight, FormingAGroupMovesTheOthers) {
  on_ranks(2, [](Communicator& world, int rank, int) {
    for (int round = 0; round < 2; ++round) {
      Flight flight(world, kManyPieces);
      if (rank == round) flight.wait();
      const Group group = new_group(world, Ranks{0, 1});
      flight.wait();
      EXPECT_EQ(flight.count_wrong(), 0u);
      EXPECT_EQ(members_of(*group), 3);
    }
  });
}

TEST(SubgroupsInFlight, AllocatingMovesTheOthers) {
  on_ranks(2, [](Communicator& world, int rank, int) {
    const Group group = new_group(world, Ranks{0, 1});
    Flight flight(world, kManyPieces);
    if (rank == 1) flight.wait();
    const BackendMemory memory = group->allocate(4096);
    flight.wait();
    EXPECT_EQ(flight.count_wrong(), 0u);
  });
}

// Each rank waits in the group with its left neighbour while it has started the one with its right: a cycle.
TEST(SubgroupsInFlight, ACycleOfPairsDoesNotWaitForItself) {
  on_ranks(5, [](Communicator& world, int rank, int p) {
    const int left = (rank + p - 1) % p;
    const int right = (rank + 1) % p;
    // Both members must make their groups in one order: the pair of ranks (0, p - 1) comes last for both.
    Group with_left;
    Group with_right;
    for (int first = 0; first < p; ++first) {
      const Ranks pair = {first, (first + 1) % p};
      if (first == rank) with_right = new_group(world, pair);
      if (first == left) with_left = new_group(world, pair);
    }
    for (int round = 0; round < 3; ++round) {
      Flight a(*with_right, kManyPieces, static_cast<std::size_t>(rank));
      Flight b(*with_left, kManyPieces, static_cast<std::size_t>(left));
      (round % 2 == 0 ? b : a).wait();
      (round % 2 == 0 ? a : b).wait();
      ASSERT_EQ(a.count_wrong() + b.count_wrong(), 0u) << "with " << left << " and " << right;
    }
  });
}

// Every group of four ranks' subsets, started in each rank's own order and waited for in another.
TEST(SubgroupsInFlight, EverySubsetAtOnceInEachRanksOwnOrder) {
  on_ranks(4, [](Communicator& world, int rank, int) {
    struct Member {
      Group group;
      Ranks ranks;
      std::size_t offset;
    };
    std::vector<Member> mine;
    for (unsigned subset = 1; subset < 16; ++subset) {
      Ranks ranks;
      for (int r = 0; r < 4; ++r) {
        if ((subset >> r & 1u) != 0) ranks.push_back(r);
      }
      if (contains(ranks, rank)) mine.push_back({new_group(world, ranks), ranks, subset});
    }
    std::mt19937 own(static_cast<unsigned>(rank) * 31u + 7u);
    for (const std::size_t count : {std::size_t{5}, std::size_t{5000}, std::size_t{300000}}) {
      std::shuffle(mine.begin(), mine.end(), own);
      std::vector<Flight> flights;
      for (const Member& member : mine) flights.emplace_back(*member.group, count, member.offset);
      std::shuffle(flights.begin(), flights.end(), own);
      for (Flight& flight : flights) {
        flight.wait();
        ASSERT_EQ(flight.count_wrong(), 0u) << count;
      }
    }
  });
}

// Several in each of several groups, and progress() alone finishes them: no wait is needed.
TEST(SubgroupsInFlight, ProgressOfEachGroupFinishesWhatIsInIt) {
  on_ranks(3, [](Communicator& world, int rank, int) {
    std::vector<Group> groups;
    for (int k = 0; k < 4; ++k) groups.push_back(new_group(world, Ranks{0, 1, 2}));
    std::vector<std::vector<std::int32_t>> data(12, std::vector<std::int32_t>(50001, rank + 1));
    std::vector<Work> works;
    for (std::size_t k = 0; k < data.size(); ++k) {
      works.push_back(groups[k % 4]->all_reduce_async(data[k].data(), data[k].data(), data[k].size(), kInt));
    }
    const Deadline deadline = Deadline::after(std::chrono::seconds(20));
    const auto all_done = [&] { return std::ranges::all_of(works, [](Work& work) { return work.done(); }); };
    while (!all_done() && !deadline.passed()) {
      for (const Group& group : groups) group->progress();
    }
    for (const auto& result : data) ASSERT_EQ(result, std::vector<std::int32_t>(50001, 6));
  });
}

// The same ranks in many groups, each with a blocking call that some ranks reach much later than others.
TEST(SubgroupsInFlight, BlockingCallsInOverlappingGroupsWithWorkInFlight) {
  on_ranks(4, [](Communicator& world, int rank, int) {
    const Group low = rank < 3 ? new_group(world, Ranks{0, 1, 2}) : nullptr;
    const Group high = rank > 0 ? new_group(world, Ranks{1, 2, 3}) : nullptr;
    const Group ends = rank == 0 || rank == 3 ? new_group(world, Ranks{3, 0}) : nullptr;
    for (std::size_t round = 0; round < 10; ++round) {
      const std::size_t count = round % 2 == 0 ? 200000 : 3;
      std::vector<Flight> flights;
      flights.emplace_back(world, count, round);
      for (const Group& group : {low, high, ends}) {
        if (group) flights.emplace_back(*group, count, round + 1);
      }
      if (low) low->barrier();
      if (ends) ends->barrier();
      if (high) high->barrier();
      for (Flight& flight : flights) {
        flight.wait();
        ASSERT_EQ(flight.count_wrong(), 0u) << "round " << round;
      }
    }
  });
}

}  // namespace
}  // namespace lockstep
