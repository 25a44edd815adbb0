// What the engines between hosts do with many operations at once, and where something goes wrong: over threads, so that
// ThreadSanitizer sees them. tests/net has the same over real hosts.

#include <atomic>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/core/comm/collective_fixture.h"

namespace lockstep {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::on_ranks;
using testing::Pattern;
using testing::World;

constexpr DType kFloat = DType::kFloat32;
constexpr DType kInt = DType::kInt32;

void await(const std::atomic<int>& counter, int value) {
  while (counter.load() < value) std::this_thread::yield();
}

/// Three ranks, by the engine alone and with shared memory on the hosts; each of them is the guilty one in turn.
class WireFailures : public ::testing::TestWithParam<World> {
 protected:
  static constexpr int kRanks = 3;
  template <typename Body>
  void for_each_guilty(Body body) const {
    for (int guilty = 0; guilty < kRanks; ++guilty) {
      SCOPED_TRACE("rank " + std::to_string(guilty));
      body(guilty);
    }
  }
};

/// What `attempt` found wrong. Over hier ranks wait 300 ms for what others know, which on a machine that starves them
/// may be too little: then the next try counts.
template <typename Attempt>
std::vector<std::string> complaints_of(const World& world, Attempt attempt) {
  std::vector<std::string> complaints = attempt();
  for (int tries = world.backend == "hier" ? 4 : 0; tries > 0 && !complaints.empty(); --tries) complaints = attempt();
  return complaints;
}

/// What was wrong with what the ranks were told of a rank that did not come; empty where all was right.
std::vector<std::string> told_of_a_timeout(const World& world, int guilty) {
  std::mutex mutex;
  std::vector<std::string> complaints;
  std::atomic<int> failed{0};
  std::atomic<int> begun{0};
  on_ranks(world, [&](Communicator& communicator, int rank, int) {
    const auto complain_unless = [&](bool right, const std::string& what) {
      const std::lock_guard lock(mutex);
      if (!right) complaints.push_back("rank " + std::to_string(rank) + ": " + what);
    };
    const auto says = [](const std::string& text, const std::string& part) { return text.find(part) != text.npos; };
    float x = 1;
    communicator.barrier();
    if (rank == guilty) await(failed, world.size - 1);
    try {
      Work work = communicator.all_reduce_async(&x, &x, 1, kFloat, {},
                                                {.timeout = std::chrono::milliseconds(150), .label = "a loss"});
      // One that begins late would be missing as well.
      ++begun;
      if (rank != guilty) await(begun, world.size - 1);
      work.wait();
      complain_unless(false, "no error");
    } catch (const TimeoutError& error) {
      const std::string text = error.what();
      complain_unless(rank != guilty && error.waiting_for() == guilty && error.sequence() == 2, text);
      complain_unless(says(text, "all_reduce #2 (1 f32, sum, a loss)") && says(text, "after 0.15 s"), text);
      // Over hier it may be somebody inside the host who speaks first, and who saw it last in a step.
      complain_unless(world.backend != "wire" || says(text, "in barrier #"), text);
    } catch (const AbortedError& error) {
      complain_unless(rank == guilty && says(error.what(), "the group gave up on this rank"), error.what());
    }
    ++failed;
    EXPECT_THROW(communicator.barrier(), AbortedError);
  });
  return complaints;
}

TEST_P(WireFailures, ATimeoutNamesWhoIsMissing) {
  for_each_guilty([](int guilty) {
    EXPECT_THAT(complaints_of(GetParam(), [&] { return told_of_a_timeout(GetParam(), guilty); }), ::testing::IsEmpty());
  });
}

/// The same, where the deadline of one rank alone is short.
std::vector<std::string> told_of_the_first_deadline(const World& world, int guilty) {
  // Of the last rank that came: over hier it waits for one of its own host, which has all the time in the world.
  const int first = guilty == world.size - 1 ? world.size - 2 : world.size - 1;
  std::mutex mutex;
  std::vector<std::string> complaints;
  std::atomic<int> begun{0};
  std::atomic<int> failed{0};
  on_ranks(world, [&](Communicator& communicator, int rank, int) {
    float x = 1;
    communicator.barrier();
    if (rank == guilty) return await(failed, world.size - 1);
    const std::chrono::milliseconds timeout(rank == first ? 50 : 60000);
    std::string text = "no error";
    bool right = false;
    try {
      Work work = communicator.all_reduce_async(&x, &x, 1, kFloat, {}, {.timeout = timeout, .label = {}});
      ++begun;
      await(begun, world.size - 1);
      work.wait();
    } catch (const TimeoutError& error) {
      text = error.what();
      right = error.waiting_for() == guilty && text.find("timed out after 0.05 s") != text.npos;
    } catch (const AbortedError& error) {
      text = error.what();
    }
    const std::lock_guard lock(mutex);
    if (!right) complaints.push_back("rank " + std::to_string(rank) + ": " + text);
    ++failed;
  });
  return complaints;
}

TEST_P(WireFailures, TheFirstDeadlineNamesWhoIsMissingToAll) {
  for_each_guilty([](int guilty) {
    EXPECT_THAT(complaints_of(GetParam(), [&] { return told_of_the_first_deadline(GetParam(), guilty); }),
                ::testing::IsEmpty());
  });
}

TEST(WireEngine, ADeadlineOfZeroIsEnoughWhereAllIsThere) {
  // Of two ranks the second finds what the first has said.
  std::atomic<int> begun{0};
  on_ranks(World{2, false, "wire"}, [&](Communicator& communicator, int rank, int) {
    std::int32_t x = rank + 1;
    if (rank == 1) await(begun, 1);
    Work work = communicator.all_reduce_async(&x, &x, 1, kInt, {},
                                              {.timeout = rank == 0 ? std::chrono::seconds(60) : Duration::zero()});
    ++begun;
    work.wait();
    EXPECT_EQ(x, 3);
  });
}

TEST_P(WireFailures, ADeadlineOfZeroEndsTheGroupWhereSomebodyIsMissing) {
  std::atomic<int> failed{0};
  on_ranks(GetParam(), [&](Communicator& communicator, int rank, int) {
    std::int32_t x = rank;
    if (rank == 0) {
      EXPECT_THROW(communicator.all_reduce(&x, &x, 1, kInt, {}, {.timeout = Duration::zero()}), TimeoutError);
      ++failed;
    } else {
      await(failed, 1);
      EXPECT_THROW(communicator.all_reduce(&x, &x, 1, kInt), Error);
    }
  });
}

TEST_P(WireFailures, ARankThatEndsIsNamedByAll) {
  for (const std::size_t count : {std::size_t{1}, std::size_t{700001}}) {
    for_each_guilty([count](int guilty) {
      on_ranks(GetParam(), [&](Communicator& communicator, int rank, int) {
        std::vector<float> x(count);
        communicator.barrier();
        if (rank == guilty) return;
        try {
          communicator.all_reduce(x.data(), x.data(), count, kFloat);
          ADD_FAILURE() << "rank " << rank << ": no error";
        } catch (const PeerError& error) {
          EXPECT_EQ(error.rank(), guilty) << error.what();
          EXPECT_THAT(error.what(), HasSubstr("all_reduce #2"));
        }
        EXPECT_THROW(communicator.barrier(), AbortedError);
      });
    });
  }
}

TEST_P(WireFailures, AbortFromAnotherThreadFreesAll) {
  for_each_guilty([](int guilty) {
    std::atomic<int> entered{0};
    on_ranks(GetParam(), [&](Communicator& communicator, int rank, int) {
      std::vector<float> x(300001);
      std::thread other([&] {
        await(entered, kRanks - 1);
        if (rank == guilty) communicator.abort("the user pressed stop");
      });
      try {
        ++entered;
        if (rank == guilty) communicator.recv(x.data(), 1, kFloat, (rank + 1) % kRanks);
        communicator.all_reduce(x.data(), x.data(), x.size(), kFloat);
        ADD_FAILURE() << "rank " << rank << ": no error";
      } catch (const AbortedError& error) {
        EXPECT_THAT(error.what(), HasSubstr("the user pressed stop"));
      }
      other.join();
    });
  });
}

/// What a rank calls: alike on all but one.
struct Call {
  OpKind kind = OpKind::kAllReduce;
  std::size_t count = 100;
  DType dtype = kFloat;
  int root = 0;

  std::string text() const {
    Collective collective;
    collective.kind = kind;
    collective.count = count;
    collective.dtype = dtype;
    collective.root = root;
    collective.sequence = 1;
    return describe(collective);
  }
  void make(Communicator& c, std::byte* in, std::byte* out) const {
    switch (kind) {
      case OpKind::kBroadcast: return c.broadcast(out, count, dtype, root);
      case OpKind::kReduce: return c.reduce(in, out, count, dtype, root);
      case OpKind::kReduceScatter: return c.reduce_scatter(in, out, count, dtype);
      case OpKind::kAllGather: return c.all_gather(in, out, count, dtype);
      case OpKind::kGather: return c.gather(in, out, count, dtype, root);
      case OpKind::kBarrier: return c.barrier();
      default: return c.all_reduce(in, out, count, dtype);
    }
  }
};

/// What was wrong with what the ranks were told where one makes another call.
std::vector<std::string> told_of_a_disagreement(const World& world, int guilty, const Call& ours, const Call& theirs) {
  std::mutex mutex;
  std::vector<std::string> complaints;
  on_ranks(world, [&](Communicator& communicator, int rank, int size) {
    std::vector<std::byte> in(300001 * 4 * static_cast<std::size_t>(size));
    std::vector<std::byte> out(in.size());
    std::string text = "no error";
    bool right = false;
    try {
      // Ranks that need nobody else for their part learn of it by the next barrier.
      (rank == guilty ? theirs : ours).make(communicator, in.data(), out.data());
      communicator.barrier();
    } catch (const MismatchError& error) {
      text = error.what();
      const auto says = [&](const std::string& part) { return text.find(part) != text.npos; };
      right = says(ours.text()) && says(theirs.text()) && says("rank " + std::to_string(guilty));
    } catch (const std::exception& error) {
      text = error.what();
    }
    EXPECT_THROW(communicator.barrier(), AbortedError);
    const std::lock_guard lock(mutex);
    if (!right) complaints.push_back("rank " + std::to_string(rank) + ": " + text);
  });
  return complaints;
}

TEST_P(WireFailures, ADisagreementIsToldToAllWithBothSides) {
  const std::vector<std::pair<Call, Call>> pairs = {
      {{}, {OpKind::kReduce}},
      {{}, {OpKind::kAllReduce, 101}},
      {{}, {OpKind::kAllReduce, 0}},
      {{}, {OpKind::kAllReduce, 100, kInt}},
      {{OpKind::kAllReduce, 300001}, {OpKind::kAllReduce, 3}},
      {{OpKind::kAllReduce, 300001}, {OpKind::kReduceScatter, 300001}},
      {{OpKind::kBroadcast}, {OpKind::kBroadcast, 100, kFloat, 2}},
      {{OpKind::kReduce, 100, kFloat, 1}, {OpKind::kReduce, 100, kFloat, 2}},
      {{OpKind::kAllGather}, {OpKind::kGather}},
      {{OpKind::kAllGather}, {OpKind::kBarrier, 0, DType::kUInt8}},
  };
  for (const auto& [ours, theirs] : pairs) {
    SCOPED_TRACE(ours.text() + " and " + theirs.text());
    for_each_guilty([&ours = ours, &theirs = theirs](int guilty) {
      EXPECT_THAT(complaints_of(GetParam(), [&] { return told_of_a_disagreement(GetParam(), guilty, ours, theirs); }),
                  ::testing::IsEmpty());
    });
  }
}

/// The parts of an exchange are 100 elements, but for what a rank sends to another one and what that one expects.
struct Split {
  std::size_t sent;
  std::size_t expected;
};

/// What was wrong with what the ranks were told where `guilty` and the one behind it disagree.
std::vector<std::string> told_of_a_split(const World& world, int guilty, const Split& split) {
  std::mutex mutex;
  std::vector<std::string> complaints;
  const int receiver = (guilty + 1) % world.size;
  on_ranks(world, [&](Communicator& communicator, int rank, int size) {
    std::vector<std::size_t> sends(static_cast<std::size_t>(size), 100);
    std::vector<std::size_t> receives = sends;
    if (rank == guilty) sends[static_cast<std::size_t>(receiver)] = split.sent;
    if (rank == receiver) receives[static_cast<std::size_t>(guilty)] = split.expected;
    const std::vector<float> in(400001);
    std::vector<float> out(in.size());
    std::string text = "no error";
    bool right = false;
    try {
      communicator.all_to_all(in.data(), sends, out.data(), receives, kFloat);
      communicator.barrier();
    } catch (const MismatchError& error) {
      text = error.what();
      right =
          text.find("rank " + std::to_string(guilty) + " sends " + std::to_string(split.sent) + " elements to rank " +
                    std::to_string(receiver) + ", which expects " + std::to_string(split.expected)) != text.npos;
    } catch (const std::exception& error) {
      text = error.what();
    }
    EXPECT_THROW(communicator.barrier(), AbortedError);
    const std::lock_guard lock(mutex);
    if (!right) complaints.push_back("rank " + std::to_string(rank) + ": " + text);
  });
  return complaints;
}

TEST_P(WireFailures, AnUnequalExchangeThatDisagreesIsToldToAll) {
  for (const Split& split :
       {Split{101, 100}, Split{100, 101}, Split{300001, 100}, Split{100, 300001}, Split{100, 0}, Split{0, 100}}) {
    SCOPED_TRACE(std::to_string(split.sent) + " and " + std::to_string(split.expected));
    for_each_guilty([&split](int guilty) {
      EXPECT_THAT(complaints_of(GetParam(), [&] { return told_of_a_split(GetParam(), guilty, split); }),
                  ::testing::IsEmpty());
    });
  }
}

// One rank makes a call that the others do not make, and all go on alike: nothing may be taken for something else.
TEST_P(WireFailures, ACallTooManyOfNothingIsFound) {
  for_each_guilty([](int guilty) {
    on_ranks(GetParam(), [&](Communicator& communicator, int rank, int) {
      std::int32_t x = rank;
      EXPECT_THROW(
          {
            if (rank == guilty) communicator.broadcast(&x, 0, kInt, 0);
            communicator.all_reduce(&x, &x, 1, kInt);
            communicator.all_reduce(&x, &x, 1, kInt);
          },
          MismatchError)
          << "rank " << rank;
    });
  });
}

// ---- many at once ----

TEST_P(WireFailures, OperationsOnOneBufferKeepTheirOrder) {
  on_ranks(GetParam(), [](Communicator& communicator, int rank, int world) {
    for (const std::size_t count : {std::size_t{1}, std::size_t{23}, std::size_t{400009}}) {
      std::vector<std::int32_t> x(count, rank + 1);
      std::vector<std::int32_t> all(count * static_cast<std::size_t>(world));
      communicator.all_reduce_async(x.data(), x.data(), count, kInt);                        // 6
      communicator.all_gather_async(x.data(), all.data(), count, kInt);                      // 6 6 6
      communicator.all_reduce_async(x.data(), x.data(), count, kInt);                        // 18
      communicator.reduce_scatter_async(all.data(), x.data(), count, kInt, ReduceOp::kMax);  // 6
      communicator.broadcast_async(x.data(), count, kInt, 1);                                // 6
      communicator.all_reduce_async(x.data(), x.data(), count, kInt).wait();                 // 18
      EXPECT_EQ(x, std::vector<std::int32_t>(count, 18));
      EXPECT_EQ(all, std::vector<std::int32_t>(all.size(), 6));
    }
  });
}

TEST_P(WireFailures, MoreInFlightThanThereIsRoomFor) {
  on_ranks(GetParam(), [](Communicator& communicator, int rank, int world) {
    constexpr std::size_t kOperations = 300;
    std::vector<std::vector<float>> x;
    std::vector<Work> works;
    for (std::size_t i = 0; i < kOperations; ++i) {
      x.emplace_back(i * 7 % 1031);
      Pattern::of_rank(rank, kFloat).write(x[i].data(), x[i].size(), i);
      works.push_back(communicator.all_reduce_async(x[i].data(), x[i].data(), x[i].size(), kFloat));
    }
    for (std::size_t i = kOperations; i-- > 0;) {
      works[i].wait();
      EXPECT_EQ(Pattern::of_result(world, kFloat).count_wrong(x[i].data(), x[i].size(), i), 0u) << i;
    }
    // Nobody leaves while another still has some under way.
    communicator.barrier();
  });
}

INSTANTIATE_TEST_SUITE_P(Worlds, WireFailures,
                         ::testing::Values(World{3, false, "wire"}, World{3, false, "hier", {0, 0, 1}},
                                           World{3, false, "hier", {0, 1, 1}}, World{3, false, "hier", {0, 1, 0}}),
                         testing::name_of_world);

}  // namespace
}  // namespace lockstep
