// How transports come about, fail to, and leave nothing behind.

#include <algorithm>
#include <filesystem>
#include <iterator>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/backend/meeting.h"
#include "lockstep/core/base/error.h"
#include "lockstep/core/base/host.h"
#include "tests/unit/core/backend/gloo/gloo_testing.h"

namespace lockstep {
namespace {

using namespace gloo_testing;
using std::chrono::milliseconds;
using testing::AllOf;
using testing::HasSubstr;

std::ptrdiff_t entries(const char* folder) {
  return std::distance(std::filesystem::directory_iterator(folder), std::filesystem::directory_iterator());
}

template <typename Exception, typename Function>
std::string text_of(Function function) {
  try {
    function();
  } catch (const Exception& error) {
    return error.what();
  }
  return "(nothing thrown)";
}

TEST(GlooMeeting, EightRanksMeetAndLeaveNothingInTheStore) {
  const auto store = make_memory_store();
  support::run_ranks(8, [&](int rank) {
    const auto transport = make_gloo_transport(*store, meeting_of(rank, 8), {});
    std::vector<int> in(8, -1);
    std::vector<std::unique_ptr<Transfer>> transfers;
    for (int peer = 0; peer < 8; ++peer) {
      if (peer == rank) continue;
      transfers.push_back(transport->recv(peer, 0, &in[static_cast<std::size_t>(peer)], sizeof(int)));
      transfers.push_back(transport->send(peer, 0, &rank, sizeof rank));
    }
    for (const auto& transfer : transfers) EXPECT_EQ(finish(*transfer), TransferState::kComplete);
    for (int peer = 0; peer < 8; ++peer) {
      EXPECT_EQ(in[static_cast<std::size_t>(peer)], peer == rank ? -1 : peer);
    }
  });
  for (int rank = 0; rank < 8; ++rank) EXPECT_EQ(store->try_get("gloo." + std::to_string(rank)), std::nullopt);
}

TEST(GlooMeeting, ConnectsWithPeersOnly) {
  const auto store = make_memory_store();
  const std::vector<std::vector<int>> peers = {{1}, {0, 2}, {1}};
  support::run_ranks(3, [&](int rank) {
    GlooOptions options;
    options.peers = peers[static_cast<std::size_t>(rank)];
    const auto transport = make_gloo_transport(*store, meeting_of(rank, 3), options);
    for (int peer = 0; peer < 3; ++peer) {
      EXPECT_EQ(transport->gone(peer), std::ranges::find(options.peers, peer) == options.peers.end());
    }
    int value = 12;
    std::vector<std::unique_ptr<Transfer>> transfers;
    if (rank == 1) {
      for (const int peer : {0, 2}) transfers.push_back(transport->send(peer, 0, &value, sizeof value));
    } else {
      value = 0;
      transfers.push_back(transport->recv(1, 0, &value, sizeof value));
    }
    for (const auto& transfer : transfers) EXPECT_EQ(finish(*transfer), TransferState::kComplete);
    EXPECT_EQ(value, 12);
    meet(*store, "done", 3);
  });
}

TEST(GlooMeeting, PeersMustAgree) {
  const auto store = make_memory_store();
  support::run_ranks(2, [&](int rank) {
    GlooOptions options;
    options.peers = rank == 0 ? std::vector<int>{2} : std::vector<int>{0};
    const auto make = [&] {
      make_gloo_transport(*store, meeting_of(rank, 3, milliseconds(rank == 0 ? 2000 : 30000)), options);
    };
    if (rank == 0) {
      EXPECT_THROW(make(), TimeoutError);
    } else {
      EXPECT_THAT(text_of<UsageError>(make), HasSubstr("rank 0 is a peer of this rank, but not the other way round"));
    }
  });
  GlooOptions options;
  options.peers = {1, 3};
  EXPECT_THAT(text_of<UsageError>([&] { make_gloo_transport(*store, meeting_of(1, 3), options); }),
              HasSubstr("peer 1 is no other rank"));
}

TEST(GlooMeeting, ADeadlineNamesWhoDidNotCome) {
  const auto store = make_memory_store();
  support::run_ranks(2, [&](int rank) {
    int calls = 0;
    Meeting meeting = meeting_of(rank, 4, milliseconds(2000));
    meeting.while_waiting = [&] { ++calls; };
    try {
      make_gloo_transport(*store, meeting, {});
      FAIL() << "ranks 2 and 3 never came";
    } catch (const TimeoutError& error) {
      EXPECT_EQ(error.waiting_for(), 2);
      EXPECT_THAT(error.what(), AllOf(HasSubstr("rank " + std::to_string(rank) + "/4 group test"),
                                      HasSubstr("waited 2 s for rank(s) 2, 3 to arrive")));
    }
    EXPECT_GT(calls, 10);
  });
}

TEST(GlooMeeting, WhoWaitsElsewhereMayEndTheWait) {
  const auto store = make_memory_store();
  Meeting meeting = meeting_of(0, 2);
  meeting.while_waiting = [] { throw PeerError("rank 1 is gone", 1); };
  EXPECT_EQ(text_of<PeerError>([&] { make_gloo_transport(*store, meeting, {}); }), "rank 1 is gone");
}

/// What rank 1 would say of itself, had it been here.
std::string said_by_rank_1(const std::string& boot_id, int port) {
  return std::string(kProtocol) + " " + boot_id + " elsewhere 127.0.0.1 " + std::to_string(port) + " 0";
}

TEST(GlooMeeting, APeerThatRefusesIsNamed) {
  const auto store = make_memory_store();
  // Port 256 is the smallest as libgloo compares them, so it is this rank that connects; nobody listens there.
  store->set("gloo.1", said_by_rank_1(base::boot_id(), 256));
  try {
    make_gloo_transport(*store, meeting_of(0, 2), {});
    FAIL() << "nobody listens";
  } catch (const PeerError& error) {
    EXPECT_EQ(error.rank(), 1);
    EXPECT_THAT(error.what(), AllOf(HasSubstr("no connection with rank 1 on host elsewhere"), HasSubstr("refused")));
  }
}

TEST(GlooMeeting, APeerThatCameButDoesNotConnectIsNamed) {
  const auto store = make_memory_store();
  // Port 65535 is the largest: rank 1 would have to connect.
  store->set("gloo.1", said_by_rank_1(base::boot_id(), 65535));
  EXPECT_THAT(text_of<TimeoutError>([&] { make_gloo_transport(*store, meeting_of(0, 2, milliseconds(100)), {}); }),
              HasSubstr("for rank(s) 1 to connect"));
}

TEST(GlooMeeting, AnotherProtocolIsNamedBesideOurs) {
  const auto store = make_memory_store();
  store->set("gloo.1", "v7 whatever it says");
  EXPECT_THAT(text_of<UsageError>([&] { make_gloo_transport(*store, meeting_of(0, 2), {}); }),
              AllOf(HasSubstr("this rank speaks protocol v1, rank 1 speaks 'v7'")));
}

TEST(GlooMeeting, LoopbackDoesNotReachAnotherHost) {
  const auto store = make_memory_store();
  store->set("gloo.1", said_by_rank_1("another-boot-id", 256));
  EXPECT_THAT(text_of<UsageError>([&] { make_gloo_transport(*store, meeting_of(0, 2), {}); }),
              AllOf(HasSubstr("rank 1 on host elsewhere at 127.0.0.1"), HasSubstr("name the network interface")));
}

TEST(GlooMeeting, AnInterfaceThatDoesNotExistIsNamedWithThoseThatDo) {
  const auto store = make_memory_store();
  GlooOptions options;
  options.interface = "nosuch0";
  EXPECT_THAT(text_of<UsageError>([&] { make_gloo_transport(*store, meeting_of(0, 2), options); }),
              AllOf(HasSubstr("'nosuch0' does not exist"), HasSubstr("lo")));
  options = {};
  options.route_to = "no such host";
  EXPECT_THAT(text_of<UsageError>([&] { make_gloo_transport(*store, meeting_of(0, 2), options); }),
              HasSubstr("'no such host' has no address"));
}

TEST(GlooMeeting, GoesByTheInterfaceOrTheRoute) {
  for (const bool by_interface : {true, false}) {
    const auto store = make_memory_store();
    support::run_ranks(2, [&](int rank) {
      GlooOptions options;
      (by_interface ? options.interface : options.route_to) = by_interface ? "lo" : "localhost";
      const auto transport = make_gloo_transport(*store, meeting_of(rank, 2), options);
      EXPECT_FALSE(transport->gone(1 - rank));
      meet(*store, "done", 2);
    });
  }
}

TEST(GlooMeeting, GroupsShareAThreadWhichEndsWithTheLast) {
  const auto first = make_memory_store();
  const auto second = make_memory_store();
  const auto threads = entries("/proc/self/task");
  support::run_ranks(2, [&](int rank) {
    auto one = make_gloo_transport(*first, meeting_of(rank, 2), {});
    auto two = make_gloo_transport(*second, meeting_of(rank, 2), {});
    meet(*first, "made", 2);
    // Two ranks and libgloo's; those that connected are joined, but may still be listed for a moment.
    if (rank == 0) {
      const Deadline deadline = Deadline::after(std::chrono::seconds(20));
      while (entries("/proc/self/task") != threads + 3 && !deadline.passed()) std::this_thread::yield();
      EXPECT_EQ(entries("/proc/self/task"), threads + 3);
    }
    meet(*first, "counted", 2);
    one.reset();
    int value = rank;
    const auto transfer = rank == 0 ? two->send(1, 0, &value, sizeof value) : two->recv(0, 0, &value, sizeof value);
    EXPECT_EQ(finish(*transfer), TransferState::kComplete);
    EXPECT_EQ(value, 0);
  });
}

TEST(GlooMeeting, LeavesNoThreadsAndDescriptorsBehind) {
  const auto threads = entries("/proc/self/task");
  const auto descriptors = entries("/proc/self/fd");
  for (int round = 0; round < 50; ++round) {
    with_transports(2, [&](auto& transport, int rank, Store&) {
      int value = rank == 0 ? round : -1;
      const auto transfer =
          rank == 0 ? transport->send(1, 0, &value, sizeof value) : transport->recv(0, 0, &value, sizeof value);
      ASSERT_EQ(finish(*transfer), TransferState::kComplete);
      EXPECT_EQ(value, round);
    });
  }
  EXPECT_EQ(entries("/proc/self/fd"), descriptors);
  // The kernel may list a thread for a moment after it was joined.
  const Deadline deadline = Deadline::after(std::chrono::seconds(10));
  while (entries("/proc/self/task") != threads && !deadline.passed()) std::this_thread::yield();
  EXPECT_EQ(entries("/proc/self/task"), threads);
}

TEST(GlooMeeting, AFailedMeetingLeavesNothingEither) {
  const auto descriptors = entries("/proc/self/fd");
  const auto store = make_memory_store();
  store->set("gloo.1", said_by_rank_1(base::boot_id(), 65535));
  EXPECT_THROW(make_gloo_transport(*store, meeting_of(0, 2, milliseconds(20)), {}), TimeoutError);
  EXPECT_EQ(entries("/proc/self/fd"), descriptors);
}

}  // namespace
}  // namespace lockstep
