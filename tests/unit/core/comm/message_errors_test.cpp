// send and recv where something is wrong: bad calls, sides that disagree, deadlines, peers that leave, aborts.

#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/core/comm/collective_fixture.h"

namespace lockstep {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using testing::on_ranks;

constexpr DType kFloat = DType::kFloat32;

std::shared_ptr<Communicator> join(const std::shared_ptr<Store>& store, int rank, int world, Duration timeout) {
  InitOptions options;
  options.timeout = timeout;
  return make_communicator(store, rank, world, options);
}

TEST(MessageErrors, BadCallsAreRefusedAndChangeNothing) {
  on_ranks(2, [](Communicator& communicator, int rank, int) {
    float x = 1;
    for (const int peer : {2, 100, -2}) {
      EXPECT_THROW(communicator.send(&x, 1, kFloat, peer), UsageError) << peer;
      EXPECT_THROW(communicator.recv(&x, 1, kFloat, peer), UsageError) << peer;
    }
    EXPECT_THROW(communicator.send(&x, 1, kFloat, kAnySource), UsageError);
    EXPECT_THROW(communicator.send(&x, 1, kFloat, 0, -1), UsageError);
    EXPECT_THROW(communicator.recv(&x, 1, kFloat, 0, -1), UsageError);
    EXPECT_THROW(communicator.send(nullptr, 1, kFloat, 0), UsageError);
    EXPECT_THROW(communicator.recv(nullptr, 1, kFloat, 0), UsageError);
    float y = 0;
    Work sent = communicator.send_async(&x, 1, kFloat, 1 - rank);
    communicator.recv(&y, 1, kFloat, 1 - rank);
    sent.wait();
    EXPECT_EQ(y, 1);
    // Nothing to move needs no memory.
    Work empty = communicator.send_async(nullptr, 0, kFloat, 1 - rank);
    EXPECT_EQ(communicator.recv(nullptr, 0, kFloat, kAnySource), 1 - rank);
    empty.wait();
  });
}

struct Sides {
  std::size_t sent;
  DType sent_as;
  std::size_t expected;
  DType expected_as;
};

class MessageMismatch : public ::testing::TestWithParam<Sides> {};

// Whichever side is first. Both must learn of it, and the third rank too: the group has failed.
TEST_P(MessageMismatch, IsToldToBothSides) {
  const Sides sides = GetParam();
  for (const bool receive_first : {false, true}) {
    std::atomic<bool> begun{false};
    on_ranks(3, [&](Communicator& communicator, int rank, int) {
      std::vector<double> data(500000);
      try {
        Work work;
        const bool first = receive_first ? rank == 1 : rank == 0;
        while (rank != 2 && !first && !begun.load()) std::this_thread::yield();
        if (rank == 0) work = communicator.send_async(data.data(), sides.sent, sides.sent_as, 1, 6);
        if (rank == 1) work = communicator.recv_async(data.data(), sides.expected, sides.expected_as, 0, 6);
        if (first) begun.store(true);
        work.wait();
        communicator.barrier();
        ADD_FAILURE() << "rank " << rank << ": no error";
      } catch (const MismatchError& error) {
        const auto side = [](std::size_t count, DType dtype) {
          return std::to_string(count) + " " + std::string(name_of(dtype));
        };
        EXPECT_THAT(error.what(), AllOf(HasSubstr(side(sides.sent, sides.sent_as)),
                                        HasSubstr(side(sides.expected, sides.expected_as))));
        EXPECT_THAT(error.what(), AllOf(HasSubstr("rank 0"), HasSubstr("rank 1"), HasSubstr("tag 6")));
      }
      EXPECT_THROW(communicator.barrier(), AbortedError);
    });
  }
}

INSTANTIATE_TEST_SUITE_P(Sides, MessageMismatch,
                         ::testing::Values(Sides{10, kFloat, 11, kFloat}, Sides{11, kFloat, 10, kFloat},
                                           Sides{0, kFloat, 1, kFloat}, Sides{1, kFloat, 0, kFloat},
                                           Sides{10, kFloat, 10, DType::kInt32}, Sides{10, kFloat, 5, DType::kFloat64},
                                           Sides{300000, kFloat, 299999, kFloat}, Sides{300000, kFloat, 2, kFloat},
                                           Sides{2, kFloat, 300000, kFloat},
                                           Sides{300000, kFloat, 300000, DType::kInt32}));

TEST(MessageErrors, ATimeoutNamesTheSource) {
  const auto store = make_memory_store();
  std::atomic<bool> done{false};
  support::run_ranks(3, [&](int rank) {
    const auto communicator = join(store, rank, 3, std::chrono::milliseconds(200));
    if (rank == 1) {
      float x = 0;
      try {
        communicator->recv(&x, 1, kFloat, 2, 5, {.timeout = {}, .label = "the weights"});
        ADD_FAILURE() << "no timeout";
      } catch (const TimeoutError& error) {
        EXPECT_EQ(error.waiting_for(), 2);
        EXPECT_THAT(error.what(), AllOf(HasSubstr("rank 1/3"), HasSubstr("recv #1 (1 f32, tag 5, from rank 2"),
                                        HasSubstr("the weights"), HasSubstr("timed out after 0.2 s"),
                                        HasSubstr("waiting for rank 2")));
      }
      done.store(true);
      return;
    }
    while (!done.load()) std::this_thread::yield();
    // The group is over for everyone, and says why.
    try {
      communicator->barrier();
      ADD_FAILURE() << "no error";
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("recv #1"));
    }
  });
}

TEST(MessageErrors, ATimeoutOfALargeSendNamesItsReceiver) {
  const auto store = make_memory_store();
  std::atomic<bool> done{false};
  support::run_ranks(2, [&](int rank) {
    const auto communicator = join(store, rank, 2, std::chrono::milliseconds(200));
    if (rank == 1) {
      while (!done.load()) std::this_thread::yield();
      return;
    }
    const std::vector<float> data(2000000);
    try {
      communicator->send(data.data(), data.size(), kFloat, 1, 5);
      ADD_FAILURE() << "no timeout";
    } catch (const TimeoutError& error) {
      EXPECT_EQ(error.waiting_for(), 1);
      EXPECT_THAT(error.what(), AllOf(HasSubstr("send #1 (2000000 f32, tag 5, to rank 1"), HasSubstr("rank 1")));
    }
    done.store(true);
  });
}

TEST(MessageErrors, FromAnyRankATimeoutSaysSo) {
  const auto store = make_memory_store();
  std::atomic<bool> done{false};
  support::run_ranks(2, [&](int rank) {
    const auto communicator = join(store, rank, 2, std::chrono::milliseconds(100));
    if (rank == 1) {
      while (!done.load()) std::this_thread::yield();
      return;
    }
    float x = 0;
    try {
      communicator->recv(&x, 1, kFloat, kAnySource);
      ADD_FAILURE() << "no timeout";
    } catch (const TimeoutError& error) {
      EXPECT_THAT(error.what(), HasSubstr("from any rank"));
    }
    done.store(true);
  });
}

TEST(MessageErrors, ASourceThatLeavesIsNoticedLongBeforeTheDeadline) {
  for (const int from : {1, kAnySource}) {
    const auto store = make_memory_store();
    support::run_ranks(2, [&](int rank) {
      const auto communicator = join(store, rank, 2, std::chrono::hours(1));
      if (rank == 1) return;
      float x = 0;
      try {
        communicator->recv(&x, 1, kFloat, from);
        ADD_FAILURE() << "no error";
      } catch (const PeerError& error) {
        EXPECT_EQ(error.rank(), 1);
        EXPECT_THAT(error.what(), HasSubstr("rank 1 left the group"));
      }
    });
  }
}

TEST(MessageErrors, AReceiverThatLeavesIsNoticedByALargeSend) {
  const auto store = make_memory_store();
  support::run_ranks(2, [&](int rank) {
    const auto communicator = join(store, rank, 2, std::chrono::hours(1));
    if (rank == 1) return;
    const std::vector<float> data(2000000);
    try {
      communicator->send(data.data(), data.size(), kFloat, 1);
      ADD_FAILURE() << "no error";
    } catch (const PeerError& error) {
      EXPECT_EQ(error.rank(), 1);
    }
  });
}

// One of several sources leaves: a receive from any rank can still be served by the others.
TEST(MessageErrors, AnySourceOutlivesARankThatLeft) {
  const auto store = make_memory_store();
  std::atomic<bool> left{false};
  support::run_ranks(3, [&](int rank) {
    auto communicator = join(store, rank, 3, std::chrono::seconds(30));
    float x = 5;
    if (rank == 1) {
      communicator.reset();
      left.store(true);
    } else if (rank == 2) {
      while (!left.load()) std::this_thread::yield();
      communicator->send(&x, 1, kFloat, 0);
    } else {
      x = 0;
      while (!left.load()) std::this_thread::yield();
      EXPECT_EQ(communicator->recv(&x, 1, kFloat, kAnySource), 2);
      EXPECT_EQ(x, 5);
    }
  });
}

// The receive waits for rank 2, so nothing takes what rank 1 sends: a receive from rank 1 would keep it.
TEST(MessageErrors, AbortFreesReceiversAndSenders) {
  const auto store = make_memory_store();
  support::run_ranks(3, [&](int rank) {
    const auto communicator = join(store, rank, 3, std::chrono::hours(1));
    std::vector<float> data(2000000);
    try {
      if (rank == 0) communicator->recv(data.data(), 1, kFloat, 2);
      if (rank == 1) communicator->send(data.data(), data.size(), kFloat, 0, 9);
      if (rank == 2) communicator->abort("the user pressed stop"), communicator->barrier();
      ADD_FAILURE() << "rank " << rank << ": no error";
    } catch (const AbortedError& error) {
      EXPECT_THAT(error.what(), HasSubstr("the user pressed stop"));
    }
  });
}

// A Work that is dropped is not cancelled: its message still arrives, and its buffer is still written.
TEST(MessageErrors, ADroppedWorkGoesOn) {
  std::atomic<bool> arrived{false};
  on_ranks(2, [&](Communicator& communicator, int rank, int) {
    std::vector<float> data(200000, static_cast<float>(rank));
    if (rank == 0) communicator.send_async(data.data(), data.size(), kFloat, 1);
    if (rank == 1) communicator.recv_async(data.data(), data.size(), kFloat, 0);
    const Deadline deadline = Deadline::after(std::chrono::seconds(20));
    while (!arrived.load() && !deadline.passed()) {
      communicator.progress();
      if (rank == 1 && data == std::vector<float>(200000, 0.0f)) arrived.store(true);
    }
    EXPECT_TRUE(arrived.load());
  });
}

}  // namespace
}  // namespace lockstep
