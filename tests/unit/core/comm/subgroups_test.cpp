// Groups of some of the ranks: who is in them, groups of groups, names, what is refused, and their ends.

#include <array>
#include <atomic>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/comm/subgroup.h"
#include "tests/unit/core/comm/subgroup_testing.h"

namespace lockstep {
namespace {

using ::testing::AllOf;
using testing::contains;
using ::testing::ElementsAre;
using testing::Flight;
using testing::Group;
using ::testing::HasSubstr;
using testing::mask_of;
using testing::members_of;
using testing::on_ranks;
using testing::Pattern;
using testing::Ranks;

constexpr DType kInt = DType::kInt32;

TEST(NewGroup, RanksArePositionsInTheList) {
  on_ranks(5, [](Communicator& world, int rank, int) {
    const Ranks ranks = {4, 0, 3};
    if (!contains(ranks, rank)) return;
    const Group group = new_group(world, ranks);
    ASSERT_EQ(group->world_size(), 3);
    EXPECT_EQ(ranks[static_cast<std::size_t>(group->rank())], rank);
    for (int r = 0; r < 3; ++r) EXPECT_EQ(group->global_rank(r), ranks[static_cast<std::size_t>(r)]);
    std::array<std::int32_t, 3> gathered{};
    const std::int32_t mine = rank;
    group->all_gather(&mine, gathered.data(), 1, kInt);
    EXPECT_THAT(gathered, ElementsAre(4, 0, 3));
    EXPECT_EQ(members_of(*group), mask_of(ranks));
  });
}

TEST(NewGroup, OfEverySizeDoesEveryKindOfOperation) {
  on_ranks(4, [](Communicator& world, int rank, int) {
    for (const Ranks& ranks : {Ranks{2}, Ranks{1, 3}, Ranks{3, 0, 1}, Ranks{0, 1, 2, 3}, Ranks{3, 2, 1, 0}}) {
      if (!contains(ranks, rank)) continue;
      const Group group = new_group(world, ranks);
      const int p = group->world_size();
      const int me = group->rank();
      const int before = (me + p - 1) % p;
      for (const std::size_t count : {std::size_t{1}, std::size_t{777}, std::size_t{90001}}) {
        const auto own = static_cast<std::size_t>(me) * count;
        std::vector<std::int32_t> in(static_cast<std::size_t>(p) * count);
        std::vector<std::int32_t> out(in.size());
        Pattern::of_rank(me, kInt).write(in.data(), in.size());
        group->all_reduce(in.data(), out.data(), count, kInt);
        EXPECT_EQ(Pattern::of_result(p, kInt).count_wrong(out.data(), count), 0u);
        group->reduce_scatter(in.data(), out.data(), count, kInt);
        EXPECT_EQ(Pattern::of_result(p, kInt).count_wrong(out.data(), count, own), 0u);
        group->all_to_all(in.data(), out.data(), count, kInt);
        for (int source = 0; source < p; ++source) {
          const auto* const part = out.data() + static_cast<std::size_t>(source) * count;
          EXPECT_EQ(Pattern::of_rank(source, kInt).count_wrong(part, count, own), 0u);
        }
        Work sent = group->send_async(in.data(), count, kInt, (me + 1) % p);
        EXPECT_EQ(group->recv(out.data(), count, kInt, before), before);
        sent.wait();
        EXPECT_EQ(Pattern::of_rank(before, kInt).count_wrong(out.data(), count), 0u);
        group->broadcast(in.data(), count, kInt, p - 1);
        EXPECT_EQ(Pattern::of_rank(p - 1, kInt).count_wrong(in.data(), count), 0u);
      }
      const BackendMemory memory = group->allocate(90001 * 4);
      Pattern::of_rank(me, kInt).write(memory.data, 90001);
      group->all_reduce(memory.data, memory.data, 90001, kInt);
      EXPECT_EQ(Pattern::of_result(p, kInt).count_wrong(memory.data, 90001), 0u);
    }
  });
}

TEST(NewGroup, WhatCannotBeIsRefusedAtOnce) {
  on_ranks(3, [](Communicator& world, int rank, int) {
    EXPECT_THROW(new_group(world, Ranks{(rank + 1) % 3, (rank + 2) % 3}), UsageError) << "this rank is not in the list";
    EXPECT_THROW(new_group(world, Ranks{}), UsageError);
    EXPECT_THROW(new_group(world, Ranks{rank, rank}), UsageError) << "twice";
    EXPECT_THROW(new_group(world, Ranks{0, 1, 2, 0}), UsageError) << "twice";
    EXPECT_THROW(new_group(world, Ranks{rank, 3}), UsageError) << "no rank of the parent";
    EXPECT_THROW(new_group(world, Ranks{rank, -1}), UsageError) << "no rank of the parent";
    // None of that left a trace.
    const Group group = new_group(world, Ranks{0, 1, 2});
    EXPECT_EQ(members_of(*group), 7);
    EXPECT_EQ(members_of(world), 7);
  });
}

TEST(NewGroup, NeedsAStore) {
  on_ranks(2, [](Communicator& world, int, int) {
    const Group group = new_group(world, Ranks{0, 1});
    EXPECT_NE(world.options().store, nullptr);
    EXPECT_NE(group->options().store, nullptr) << "groups of groups need one";
  });
}

TEST(NewGroup, TheSameListAgainIsAnotherGroup) {
  on_ranks(2, [](Communicator& world, int rank, int) {
    const Group first = new_group(world, Ranks{0, 1});
    const Group second = new_group(world, Ranks{0, 1});
    const Group reversed = new_group(world, Ranks{1, 0});
    EXPECT_EQ(reversed->rank(), 1 - rank);
    Flight a(*first, 100000, 1);
    Flight b(*second, 100000, 2);
    Flight c(*reversed, 100000, 3);
    c.wait();
    b.wait();
    a.wait();
    EXPECT_EQ(a.count_wrong() + b.count_wrong() + c.count_wrong(), 0u);
  });
}

TEST(NewGroup, NamesMayRepeat) {
  on_ranks(4, [](Communicator& world, int rank, int) {
    SubgroupOptions options;
    options.name = "tp";
    const Ranks mine = rank < 2 ? Ranks{0, 1} : Ranks{2, 3};
    const Group first = new_group(world, mine, options);
    const Group second = new_group(world, mine, options);
    const Group across = new_group(world, rank % 2 == 0 ? Ranks{0, 2} : Ranks{1, 3}, options);
    EXPECT_EQ(first->name(), "tp");
    EXPECT_EQ(members_of(*across), rank % 2 == 0 ? 0b0101 : 0b1010);
    EXPECT_EQ(members_of(*second), mask_of(mine));
    EXPECT_EQ(members_of(*first), mask_of(mine));
  });
}

TEST(NewGroup, WithoutANameHasOneOfItsParentAndRanks) {
  on_ranks(3, [](Communicator& world, int rank, int) {
    if (rank == 1) return;
    const Group group = new_group(world, Ranks{0, 2});
    EXPECT_THAT(group->name(), AllOf(HasSubstr(world.name()), HasSubstr("0"), HasSubstr("2")));
    EXPECT_NE(group->name(), world.name());
  });
}

TEST(NewGroup, TimeoutNamesTheMembersThatNeverArrive) {
  on_ranks(4, [](Communicator& world, int rank, int) {
    if (rank == 1 || rank == 2) {
      SubgroupOptions options;
      options.init_timeout = std::chrono::seconds(2);  // Longer than one of the two may be late.
      try {
        new_group(world, Ranks{2, 3, 1, 0}, options);
        ADD_FAILURE() << "no timeout";
      } catch (const TimeoutError& error) {
        EXPECT_THAT(error.what(), AllOf(HasSubstr("3"), HasSubstr("0"), HasSubstr("2 s")));
      }
    }
    // A group that never came to be is no failure of its parent.
    EXPECT_EQ(members_of(world), 0b1111);
  });
}

// A member that is gone will not come: that is known long before the deadline.
TEST(NewGroup, NoticesAMemberThatLeftTheParent) {
  on_ranks(3, [](Communicator& world, int rank, int) {
    if (rank == 1) return;
    SubgroupOptions options;
    options.init_timeout = std::chrono::seconds(20);
    const Ranks ranks = rank == 0 ? Ranks{0, 1} : Ranks{1, 2};  // Whether or not it is the group's rank 0.
    try {
      new_group(world, ranks, options);
      ADD_FAILURE() << "no error";
    } catch (const PeerError& error) {
      EXPECT_THAT(error.what(), HasSubstr("rank 1"));
    }
  });
}

// The others' group comes to be without it, and their first operation says so.
TEST(NewGroup, AMemberThatGaveUpWhileItFormedIsNotWaitedFor) {
  std::atomic<bool> gave_up{false};
  on_ranks(3, [&](Communicator& world, int rank, int) {
    SubgroupOptions options;
    options.timeout = std::chrono::seconds(20);
    if (rank == 1) options.init_timeout = std::chrono::seconds(2);  // Longer than rank 0 takes to come.
    while (rank == 2 && !gave_up.load()) std::this_thread::yield();
    try {
      const Group group = new_group(world, Ranks{0, 1, 2}, options);
      group->barrier();
      ADD_FAILURE() << "rank " << rank << ": no error";
    } catch (const TimeoutError& error) {
      EXPECT_EQ(rank, 1) << error.what();
      gave_up.store(true);
    } catch (const PeerError& error) {
      EXPECT_NE(rank, 1) << error.what();
      EXPECT_EQ(error.rank(), 1);
    }
    world.barrier();
  });
}

TEST(NewGroup, HasItsOwnDeadlineAndItsFailureIsItsOwn) {
  std::atomic<int> begun{0};
  std::atomic<int> timed_out{0};
  on_ranks(3, [&](Communicator& world, int rank, int) {
    SubgroupOptions options;
    options.name = "impatient";
    options.timeout = std::chrono::milliseconds(100);
    options.init_timeout = std::chrono::seconds(30);
    const Group group = new_group(world, Ranks{2, 1, 0}, options);
    const Group other = new_group(world, Ranks{0, 1, 2});
    if (rank == 0) {  // Rank 2 of the group.
      while (timed_out.load() != 2) std::this_thread::yield();
    } else {
      try {
        Work work = group->barrier_async();
        // One that begins late would be missing as well.
        ++begun;
        while (begun.load() != 2) std::this_thread::yield();
        work.wait();
        ADD_FAILURE() << "no timeout";
      } catch (const TimeoutError& error) {
        EXPECT_EQ(error.waiting_for(), 2);
        EXPECT_THAT(error.what(), AllOf(HasSubstr("group impatient"), HasSubstr("timed out after 0.1 s"),
                                        HasSubstr("waiting for rank 2")));
      }
      ++timed_out;
    }
    EXPECT_THROW(group->barrier(), AbortedError);
    EXPECT_EQ(members_of(*other), 7);
    EXPECT_EQ(members_of(world), 7);
  });
}

TEST(NewGroup, AbortEndsOneGroupAlone) {
  on_ranks(3, [](Communicator& world, int rank, int) {
    const Group doomed = new_group(world, Ranks{0, 1, 2});
    const Group safe = new_group(world, Ranks{1, 2, 0});
    Flight in_flight(*safe, testing::kManyPieces);
    Flight of_the_world(world, testing::kManyPieces, 1);
    if (rank == 1) doomed->abort("this one is not needed");
    try {
      for (;;) doomed->barrier();
    } catch (const AbortedError& error) {
      EXPECT_THAT(error.what(), HasSubstr("this one is not needed"));
    }
    in_flight.wait();
    of_the_world.wait();
    EXPECT_EQ(in_flight.count_wrong() + of_the_world.count_wrong(), 0u);
    const Group later = new_group(world, Ranks{2, 0, 1});
    EXPECT_EQ(members_of(*later), 7);
    EXPECT_EQ(members_of(*safe), 7);
  });
}

TEST(NewGroup, AMismatchInOneGroupLeavesTheOthersInFlight) {
  on_ranks(2, [](Communicator& world, int rank, int) {
    const Group group = new_group(world, Ranks{0, 1});
    Flight flight(world, testing::kManyPieces);
    std::int32_t x = 0;
    EXPECT_THROW(group->all_reduce(&x, &x, 1, kInt, rank == 0 ? ReduceOp::kMax : ReduceOp::kMin), MismatchError);
    flight.wait();
    EXPECT_EQ(flight.count_wrong(), 0u);
  });
}

TEST(NewGroup, ARankThatLeavesOneGroupIsInTheOthers) {
  on_ranks(2, [](Communicator& world, int rank, int) {
    Group group = new_group(world, Ranks{0, 1});
    if (rank == 1) group.reset();
    if (rank == 0) {
      try {
        group->barrier();
        ADD_FAILURE() << "no error";
      } catch (const PeerError& error) {
        EXPECT_EQ(error.rank(), 1);
      }
    }
    EXPECT_EQ(members_of(world), 3);
  });
}

TEST(NewGroup, OutlivesItsParent) {
  const auto store = make_memory_store();
  support::run_ranks(3, [&](int rank) {
    Group world = make_communicator(store, rank, 3);
    Group group = new_group(*world, Ranks{2, 1, 0});
    Flight flight(*group, testing::kManyPieces);
    world.reset();
    Group inner = new_group(*group, Ranks{0, 2, 1});
    group.reset();  // The flight's Work keeps it.
    EXPECT_EQ(members_of(*inner), 7);
    flight.wait();
    EXPECT_EQ(flight.count_wrong(), 0u);
  });
}

TEST(NewGroup, GroupsOfGroupsCountRanksOfTheirParent) {
  on_ranks(6, [](Communicator& world, int rank, int) {
    const Ranks outer = {5, 3, 1, 0};
    if (!contains(outer, rank)) return;
    const Group parent = new_group(world, outer);
    const Ranks inner = {3, 1, 0};  // In the world: 0, 3, 5.
    if (!contains(inner, parent->rank())) return;
    const Group group = new_group(*parent, inner);
    EXPECT_EQ(inner[static_cast<std::size_t>(group->rank())], parent->rank());
    EXPECT_EQ(group->global_rank(0), 0);
    EXPECT_EQ(group->global_rank(1), 3);
    EXPECT_EQ(group->global_rank(2), 5);
    EXPECT_EQ(members_of(*group), mask_of({0, 3, 5}));
    const Group pair = group->rank() == 0 ? nullptr : new_group(*group, Ranks{2, 1});
    if (pair) {
      EXPECT_EQ(pair->global_rank(0), 5);
      EXPECT_EQ(members_of(*pair), mask_of({3, 5}));
    }
  });
}

TEST(Split, GroupsByColorInTheOrderOfKeys) {
  on_ranks(8, [](Communicator& world, int rank, int) {
    // Three colors; rank 6 is in none. Keys turn the order round; equal keys keep the parent's.
    const std::array<int, 8> colors = {1, 0, 1, 7, 0, 1, -1, 0};
    const std::array<int, 8> keys = {3, -2, 2, 0, -2, 1, 0, -9};
    const auto me = static_cast<std::size_t>(rank);
    const Group group = split(world, colors[me], keys[me]);
    if (colors[me] < 0) {
      EXPECT_EQ(group, nullptr);
      return;
    }
    ASSERT_NE(group, nullptr);
    const Ranks want = colors[me] == 1 ? Ranks{5, 2, 0} : (colors[me] == 0 ? Ranks{7, 1, 4} : Ranks{3});
    ASSERT_EQ(group->world_size(), static_cast<int>(want.size()));
    for (int r = 0; r < group->world_size(); ++r) EXPECT_EQ(group->global_rank(r), want[static_cast<std::size_t>(r)]);
    EXPECT_EQ(group->global_rank(group->rank()), rank);
    EXPECT_EQ(members_of(*group), mask_of(want));
  });
}

TEST(Split, MakesTheAxesOfAMesh) {
  on_ranks(8, [](Communicator& world, int rank, int) {
    const Group row = split(world, rank / 4, 0);
    const Group column = split(world, rank % 4, -rank);
    const Group half = split(*row, row->rank() / 2, 0);
    EXPECT_EQ(members_of(*row), rank < 4 ? 0x0f : 0xf0);
    EXPECT_EQ(members_of(*column), mask_of({rank % 4, rank % 4 + 4}));
    EXPECT_EQ(column->rank(), rank < 4 ? 1 : 0);
    EXPECT_EQ(members_of(*half), mask_of({rank / 2 * 2, rank / 2 * 2 + 1}));
    EXPECT_EQ(half->global_rank(half->rank()), rank);
  });
}

TEST(Split, NobodyMayWantAGroup) {
  on_ranks(3, [](Communicator& world, int, int) {
    EXPECT_EQ(split(world, -1, 0), nullptr);
    EXPECT_EQ(members_of(world), 7);
  });
}

TEST(Split, TakesItsPlaceInTheOrderOfTheParentsOperations) {
  on_ranks(2, [](Communicator& world, int rank, int) {
    EXPECT_THROW(rank == 0 ? static_cast<void>(split(world, 0, 0)) : world.barrier(), MismatchError);
  });
}

TEST(Subgroups, FiftyMadeAndDestroyedInAnyOrder) {
  on_ranks(4, [](Communicator& world, int rank, int) {
    std::mt19937 random(20240501);                       // Alike on all ranks: who is in which group.
    std::mt19937 own(static_cast<unsigned>(rank) + 1u);  // And each rank's own order of destruction.
    std::vector<std::pair<Group, Ranks>> alive;
    for (int k = 0; k < 50; ++k) {
      Ranks ranks;
      while (ranks.empty()) {
        for (int r = 0; r < 4; ++r) {
          if (random() % 2 == 0) ranks.push_back(r);
        }
      }
      std::shuffle(ranks.begin(), ranks.end(), random);
      if (!contains(ranks, rank)) continue;
      alive.emplace_back(new_group(world, ranks), ranks);
      ASSERT_EQ(members_of(*alive.back().first), mask_of(ranks)) << "group " << k;
      if (alive.size() > 8) alive.erase(alive.begin() + static_cast<std::ptrdiff_t>(own() % alive.size()));
    }
    world.barrier();  // Whoever destroyed a group has done so after its last operation.
    EXPECT_EQ(members_of(world), 15);
    while (!alive.empty()) alive.erase(alive.begin() + static_cast<std::ptrdiff_t>(own() % alive.size()));
    EXPECT_EQ(members_of(world), 15);
  });
}

}  // namespace
}  // namespace lockstep
