// send and recv over the engines between hosts: sizes, order, receives from any rank, and what is buffered.

#include <algorithm>
#include <atomic>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/backend/wire/plan.h"
#include "tests/unit/core/comm/collective_fixture.h"

namespace lockstep {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::on_ranks;
using testing::Pattern;
using testing::World;

constexpr DType kByte = DType::kUInt8;
constexpr std::size_t kInline = wire::kInlineBytes;

void await(const std::atomic<bool>& flag) {
  while (!flag.load()) std::this_thread::yield();
}

class WireMessages : public ::testing::TestWithParam<World> {};

// Around the size that travels with its header; everyone to everyone, itself among them.
TEST_P(WireMessages, OfEverySize) {
  on_ranks(GetParam(), [](Communicator& communicator, int rank, int world) {
    for (const std::size_t n : {std::size_t{0}, std::size_t{1}, kInline - 1, kInline, kInline + 1, std::size_t{70001},
                                std::size_t{2500009}}) {
      std::vector<std::uint8_t> mine(n);
      Pattern::of_rank(rank, kByte).write(mine.data(), n);
      std::vector<std::vector<std::uint8_t>> from(static_cast<std::size_t>(world), std::vector<std::uint8_t>(n));
      std::vector<Work> works;
      for (int peer = 0; peer < world; ++peer) {
        works.push_back(communicator.send_async(mine.data(), n, kByte, peer, 3));
        works.push_back(communicator.recv_async(from[static_cast<std::size_t>(peer)].data(), n, kByte, peer, 3));
      }
      for (std::size_t i = works.size(); i-- > 0;) works[i].wait();
      for (int peer = 0; peer < world; ++peer) {
        EXPECT_EQ(Pattern::of_rank(peer, kByte).count_wrong(from[static_cast<std::size_t>(peer)].data(), n), 0u) << n;
      }
    }
  });
}

// Large and small ones of one tag arrive as they were sent; another tag may be taken before them.
TEST_P(WireMessages, KeepTheirOrder) {
  on_ranks(GetParam(), [](Communicator& communicator, int rank, int world) {
    const std::vector<std::size_t> sizes = {1, 5000, 2, kInline, 90001, 3, 0, 4};
    if (rank == world - 1) {
      std::vector<std::vector<std::uint8_t>> buffers;
      std::vector<Work> works;
      for (std::size_t i = 0; i < sizes.size(); ++i) {
        const auto& buffer = buffers.emplace_back(sizes[i], static_cast<std::uint8_t>(i));
        works.push_back(communicator.send_async(buffer.data(), sizes[i], kByte, 0, 1));
      }
      const std::uint8_t other = 77;
      communicator.send(&other, 1, kByte, 0, 2);
      for (Work& work : works) work.wait();
    } else if (rank == 0) {
      std::uint8_t other = 0;
      Work early = communicator.recv_async(&other, 1, kByte, world - 1, 2);
      for (std::size_t i = 0; i < sizes.size(); ++i) {
        std::vector<std::uint8_t> got(sizes[i]);
        EXPECT_EQ(communicator.recv(got.data(), sizes[i], kByte, kAnySource, 1), world - 1);
        EXPECT_EQ(got, std::vector<std::uint8_t>(sizes[i], static_cast<std::uint8_t>(i)));
      }
      early.wait();
      EXPECT_EQ(other, 77);
    }
    communicator.barrier();
  });
}

TEST_P(WireMessages, FromAnyRankEachOnce) {
  on_ranks(GetParam(), [](Communicator& communicator, int rank, int world) {
    for (const std::size_t n : {std::size_t{1}, std::size_t{60001}}) {
      for (int root = 0; root < world; ++root) {
        std::vector<std::uint8_t> data(n, static_cast<std::uint8_t>(rank));
        if (rank != root) {
          communicator.send(data.data(), n, kByte, root, root);
          continue;
        }
        std::vector<int> sources;
        for (int k = 1; k < world; ++k) {
          sources.push_back(communicator.recv(data.data(), n, kByte, kAnySource, root));
          EXPECT_EQ(data, std::vector<std::uint8_t>(n, static_cast<std::uint8_t>(sources.back())));
        }
        std::ranges::sort(sources);
        std::vector<int> others(static_cast<std::size_t>(world));
        std::iota(others.begin(), others.end(), 0);
        others.erase(others.begin() + root);
        EXPECT_EQ(sources, others);
      }
    }
    // Over a network one that leaves looks like one that died, and it might have been the sender.
    communicator.barrier();
  });
}

// A rank that computes need not look after its messages: a megabyte of small ones waits for it. More does not.
TEST_P(WireMessages, AMegabyteOfSmallOnesIsBuffered) {
  constexpr std::size_t kBytes = 2000;
  constexpr std::size_t kBuffered = 500;
  constexpr std::size_t kMessages = 700;
  std::atomic<bool> sent{false};
  on_ranks(GetParam(), [&](Communicator& communicator, int rank, int world) {
    const int sender = world - 1;
    std::vector<std::uint8_t> data(kBytes);
    if (rank == sender) {
      std::vector<std::vector<std::uint8_t>> late;
      std::vector<Work> works;
      for (std::size_t i = 0; i < kMessages; ++i) {
        std::ranges::fill(data, static_cast<std::uint8_t>(i));
        if (i < kBuffered) {
          communicator.send(data.data(), kBytes, kByte, 0);
        } else {
          late.push_back(data);
          works.push_back(communicator.send_async(late.back().data(), kBytes, kByte, 0));
        }
      }
      EXPECT_FALSE(works.back().done());
      sent.store(true);
      for (Work& work : works) work.wait();
    } else if (rank == 0) {
      await(sent);
      for (std::size_t i = 0; i < kMessages; ++i) {
        communicator.recv(data.data(), kBytes, kByte, sender);
        EXPECT_EQ(data, std::vector<std::uint8_t>(kBytes, static_cast<std::uint8_t>(i))) << i;
      }
    }
    communicator.barrier();
  });
}

// Rank 1 receives from rank 0 only once rank 2 says so, which waits for rank 0 itself.
TEST(WireMessage, WhoReceivesLateHoldsUpNobodyElse) {
  for (const World& world :
       {World{3, false, "wire"}, World{3, false, "wire", {}, false}, World{3, false, "hier", {0, 0, 1}}}) {
    for (const std::size_t n : {std::size_t{1}, kInline + 1}) {
      on_ranks(world, [n](Communicator& communicator, int rank, int) {
        constexpr std::size_t kMessages = 700;  // More than a megabyte.
        std::vector<std::uint8_t> data(n, 9);
        if (rank == 0) {
          std::vector<std::vector<std::uint8_t>> small;
          std::vector<Work> works;
          for (std::size_t i = 0; i < kMessages; ++i) {
            const auto& each = small.emplace_back(kInline, static_cast<std::uint8_t>(i));
            works.push_back(communicator.send_async(each.data(), each.size(), kByte, 1));
          }
          EXPECT_FALSE(works.back().done());
          communicator.send(data.data(), n, kByte, 2);
          for (Work& work : works) work.wait();
        } else if (rank == 2) {
          communicator.recv(data.data(), n, kByte, 0);
          communicator.send(data.data(), n, kByte, 1);
        } else {
          communicator.recv(data.data(), n, kByte, 2);
          EXPECT_EQ(data, std::vector<std::uint8_t>(n, 9));
          std::vector<std::uint8_t> got(kInline);
          for (std::size_t i = 0; i < kMessages; ++i) {
            communicator.recv(got.data(), got.size(), kByte, 0);
            ASSERT_EQ(got, std::vector<std::uint8_t>(kInline, static_cast<std::uint8_t>(i))) << i;
          }
        }
        communicator.barrier();
      });
    }
  }
}

TEST_P(WireMessages, ADisagreementIsToldToAll) {
  for (const auto& [sent, expected] : {std::pair<std::size_t, std::size_t>{10, 11}, {70001, 10}, {10, 70001}}) {
    on_ranks(GetParam(), [sent = sent, expected = expected](Communicator& communicator, int rank, int world) {
      std::vector<std::uint8_t> data(70001);
      try {
        if (rank == world - 1) communicator.send(data.data(), sent, kByte, 0, 6);
        if (rank == 0) communicator.recv(data.data(), expected, kByte, world - 1, 6);
        communicator.barrier();
        ADD_FAILURE() << "rank " << rank << ": no error";
      } catch (const MismatchError& error) {
        EXPECT_THAT(error.what(), AllOf(HasSubstr(std::to_string(sent) + " u8"), HasSubstr("tag 6"),
                                        HasSubstr(std::to_string(expected) + " u8"), HasSubstr("rank 0"),
                                        HasSubstr("rank " + std::to_string(world - 1))));
      }
      EXPECT_THROW(communicator.barrier(), AbortedError);
    });
  }
}

TEST_P(WireMessages, ATimeoutNamesTheOtherSide) {
  for (const bool sends : {false, true}) {
    std::atomic<bool> failed{false};
    on_ranks(GetParam(), [&](Communicator& communicator, int rank, int world) {
      const int peer = world - 1;
      std::vector<std::uint8_t> data(70001);
      communicator.barrier();
      if (rank != 0) {
        await(failed);
        EXPECT_THROW(communicator.barrier(), Error);
        return;
      }
      const OpOptions options{.timeout = std::chrono::milliseconds(100), .label = "the weights"};
      try {
        if (sends) communicator.send(data.data(), data.size(), kByte, peer, 5, options);
        if (!sends) communicator.recv(data.data(), data.size(), kByte, peer, 5, options);
        ADD_FAILURE() << "no error";
      } catch (const TimeoutError& error) {
        EXPECT_EQ(error.waiting_for(), peer);
        EXPECT_THAT(error.what(), AllOf(HasSubstr(sends ? "send #1 (70001 u8, tag 5" : "recv #1 (70001 u8, tag 5"),
                                        HasSubstr("the weights"), HasSubstr("timed out after 0.1 s"),
                                        HasSubstr("waiting for rank " + std::to_string(peer))));
      }
      failed.store(true);
    });
  }
}

TEST_P(WireMessages, AnEndOfTheOtherSideIsNoticed) {
  for (const bool sends : {false, true}) {
    on_ranks(GetParam(), [sends](Communicator& communicator, int rank, int world) {
      const int peer = world - 1;
      std::vector<std::uint8_t> data(70001);
      communicator.barrier();
      if (rank == peer) return;
      try {
        if (rank != 0) communicator.barrier();
        if (sends) communicator.send(data.data(), data.size(), kByte, peer);
        if (!sends) communicator.recv(data.data(), data.size(), kByte, peer);
        ADD_FAILURE() << "no error";
      } catch (const PeerError& error) {
        EXPECT_EQ(error.rank(), peer) << error.what();
      }
    });
  }
}

// Like MPI with one thread: what is reported can be told in calls of that thread alone, and there are no more.
TEST(WireFailure, IsToldBeforeTheConnectionsEnd) {
  for (const World& world : {World{2, false, "wire", {}, false}, World{3, false, "hier", {0, 0, 1}, false}}) {
    std::atomic<bool> failed{false};
    on_ranks(world, [&failed](Communicator& communicator, int rank, int size) {
      std::vector<std::uint8_t> data(70001);
      communicator.barrier();
      if (rank == 0) {
        EXPECT_THROW(communicator.recv(data.data(), data.size(), kByte, size - 1, 3,
                                       {.timeout = std::chrono::milliseconds(50), .label = {}}),
                     TimeoutError);
        failed.store(true);
        return;
      }
      await(failed);
      try {
        communicator.recv(data.data(), data.size(), kByte, 0, 4);
        ADD_FAILURE() << "no error";
      } catch (const Error& error) {
        EXPECT_THAT(error.what(), HasSubstr("timed out after 0.05"));
      }
    });
  }
}

INSTANTIATE_TEST_SUITE_P(Worlds, WireMessages,
                         ::testing::Values(World{2, false, "wire"}, World{3, false, "wire"},
                                           World{3, false, "hier", {0, 0, 1}}, World{4, false, "hier", {0, 1, 0, 0}}),
                         testing::name_of_world);

}  // namespace
}  // namespace lockstep
