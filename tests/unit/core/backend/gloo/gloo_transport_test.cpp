#include "lockstep/core/backend/gloo/gloo_transport.h"

#include <atomic>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/core/backend/gloo/gloo_testing.h"

namespace lockstep {
namespace {

using namespace gloo_testing;
using testing::Not;

TEST(GlooTransport, TellsWhatItIs) {
  with_transports(2, [](auto& transport, int rank, Store& store) {
    EXPECT_EQ(transport->name(), "gloo");
    EXPECT_EQ(transport->rank(), rank);
    EXPECT_EQ(transport->world_size(), 2);
    EXPECT_TRUE(transport->any_thread());
    EXPECT_FALSE(transport->gone(1 - rank));
    EXPECT_EQ(transport->why_gone(1 - rank), "");
    meet(store, "asked", 2);
  });
}

TEST(GlooTransport, AWorldOfOneHasNobodyToTalkTo) {
  with_transports(1, [](auto& transport, int, Store&) {
    EXPECT_TRUE(transport->gone(0));
    EXPECT_THAT(transport->why_gone(0), testing::HasSubstr("no peer"));
    EXPECT_EQ(transport->send(0, 0, nullptr, 0)->state(), TransferState::kBroken);
  });
}

/// Everyone to everyone: received is what was sent, and not a byte more, in a buffer with room for more.
TEST(GlooTransport, CarriesEverySize) {
  for (const int n : {2, 3}) {
    with_transports(n, [n](auto& transport, int rank, Store&) {
      for (const std::size_t nbytes : {0ul, 1ul, 2ul, 7ul, 1021ul, 65537ul, (3ul << 20) + 5}) {
        std::vector<std::unique_ptr<Transfer>> transfers;
        std::vector<std::vector<std::uint8_t>> in(static_cast<std::size_t>(n));
        const auto out = message_of(nbytes, static_cast<std::size_t>(rank));
        for (int peer = 0; peer < n; ++peer) {
          if (peer == rank) continue;
          auto& room = in[static_cast<std::size_t>(peer)];
          room.assign(nbytes + 9, 0xEE);
          transfers.push_back(transport->recv(peer, 5, room.data(), room.size()));
          transfers.push_back(transport->send(peer, 5, out.data(), nbytes));
        }
        for (const auto& transfer : transfers) ASSERT_EQ(finish(*transfer), TransferState::kComplete);
        for (int peer = 0; peer < n; ++peer) {
          if (peer == rank) continue;
          auto expected = message_of(nbytes, static_cast<std::size_t>(peer));
          expected.insert(expected.end(), 9, 0xEE);
          ASSERT_EQ(in[static_cast<std::size_t>(peer)], expected) << nbytes << " bytes from " << peer;
        }
      }
    });
  }
}

TEST(GlooTransport, TakesNullForNothing) {
  with_transports(2, [](auto& transport, int rank, Store&) {
    const auto transfer = rank == 0 ? transport->send(1, 0, nullptr, 0) : transport->recv(0, 0, nullptr, 0);
    EXPECT_EQ(finish(*transfer), TransferState::kComplete);
  });
}

TEST(GlooTransport, KeepsTheOrderOfAChannelAndChannelsApart) {
  constexpr std::uint64_t kMessages = 50;
  const std::vector<int> channels = {0, 7, Transport::kChannels - 1};
  with_transports(2, [&](auto& transport, int rank, Store&) {
    std::vector<std::uint64_t> values(kMessages * channels.size());
    std::vector<std::unique_ptr<Transfer>> transfers;
    if (rank == 0) {
      for (std::uint64_t i = 0; i < kMessages; ++i) {
        for (std::size_t c = 0; c < channels.size(); ++c) {
          auto& value = values[i * channels.size() + c];
          value = 1000 * c + i;
          transfers.push_back(transport->send(1, channels[c], &value, sizeof value));
        }
      }
    } else {
      // One channel after the other, from the last.
      for (std::size_t c = channels.size(); c-- > 0;) {
        for (std::uint64_t i = 0; i < kMessages; ++i) {
          auto& value = values[c * kMessages + i];
          transfers.push_back(transport->recv(0, channels[c], &value, sizeof value));
        }
      }
    }
    for (const auto& transfer : transfers) ASSERT_EQ(finish(*transfer), TransferState::kComplete);
    if (rank == 0) return;
    for (std::size_t c = 0; c < channels.size(); ++c) {
      for (std::uint64_t i = 0; i < kMessages; ++i) ASSERT_EQ(values[c * kMessages + i], 1000 * c + i);
    }
  });
}

TEST(GlooTransport, ReceivesMayBePostedBeforeOrAfterTheSend) {
  for (const bool receive_first : {true, false}) {
    with_transports(2, [&](auto& transport, int rank, Store& store) {
      std::uint32_t value = rank == 0 ? 4711 : 0;
      const bool first = (rank == 1) == receive_first;
      if (!first) meet(store, "first", 2);
      const auto transfer =
          rank == 0 ? transport->send(1, 3, &value, sizeof value) : transport->recv(0, 3, &value, sizeof value);
      if (first) {
        EXPECT_EQ(transfer->state(), TransferState::kMoving);
        transfer->wait(Duration::zero());
        EXPECT_EQ(transfer->state(), TransferState::kMoving);
        meet(store, "first", 2);
      }
      EXPECT_EQ(finish(*transfer), TransferState::kComplete);
      EXPECT_EQ(value, 4711u);
    });
  }
}

TEST(GlooTransport, CarriesManyAtOnceInBothDirections) {
  constexpr std::size_t kEach = 40;
  with_transports(3, [](auto& transport, int rank, Store&) {
    const auto seed = [](int from, int to, std::size_t i) {
      return static_cast<std::size_t>(from) * 1000 + static_cast<std::size_t>(to) * 100 + i;
    };
    const auto size = [](std::size_t i) { return i * i * 37 + i % 3; };
    std::vector<std::unique_ptr<Transfer>> transfers;
    std::vector<std::vector<std::uint8_t>> in;
    std::vector<std::vector<std::uint8_t>> out;
    std::vector<std::vector<std::uint8_t>> expected;
    for (std::size_t i = 0; i < kEach; ++i) {
      for (int peer = 0; peer < 3; ++peer) {
        if (peer == rank) continue;
        out.push_back(message_of(size(i), seed(rank, peer, i)));
        expected.push_back(message_of(size(i), seed(peer, rank, i)));
        in.emplace_back(size(i));
        const int channel = static_cast<int>(i % 5);
        transfers.push_back(transport->send(peer, channel, out.back().data(), out.back().size()));
        transfers.push_back(transport->recv(peer, channel, in.back().data(), in.back().size()));
      }
    }
    while (!transfers.empty()) {
      ASSERT_EQ(finish(*transfers.back()), TransferState::kComplete);
      transfers.pop_back();
    }
    EXPECT_EQ(in, expected);
  });
}

TEST(GlooTransport, TakesSendsAndReceivesFromAnyThread) {
  constexpr int kThreads = 3;
  constexpr std::uint32_t kMessages = 100;
  with_transports(2, [](auto& transport, int rank, Store&) {
    std::vector<std::thread> threads;
    std::atomic<std::uint32_t> right{0};
    for (int channel = 0; channel < kThreads; ++channel) {
      threads.emplace_back([&, channel] {
        for (std::uint32_t i = 0; i < kMessages; ++i) {
          std::uint32_t out = static_cast<std::uint32_t>(rank * 100000 + channel * 1000) + i;
          std::uint32_t in = 0;
          const auto recv = transport->recv(1 - rank, channel, &in, sizeof in);
          const auto send = transport->send(1 - rank, channel, &out, sizeof out);
          if (finish(*recv) != TransferState::kComplete || finish(*send) != TransferState::kComplete) return;
          right += in == static_cast<std::uint32_t>((1 - rank) * 100000 + channel * 1000) + i;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(right.load(), kThreads * kMessages);
  });
}

/// libgloo would stall the whole connection at a message whose receive was dropped.
TEST(GlooTransport, ADroppedTransferGoesOnWithoutItsHandle) {
  with_transports(2, [](auto& transport, int rank, Store& store) {
    const auto out = message_of(100000, 1);
    std::vector<std::uint8_t> in(out.size());
    std::uint32_t last = rank == 0 ? 17 : 0;
    if (rank == 1) transport->recv(0, 1, in.data(), in.size());
    meet(store, "posted", 2);
    if (rank == 0) transport->send(1, 1, out.data(), out.size());
    const auto transfer =
        rank == 0 ? transport->send(1, 2, &last, sizeof last) : transport->recv(0, 2, &last, sizeof last);
    EXPECT_EQ(finish(*transfer), TransferState::kComplete);
    EXPECT_EQ(last, 17u);
    if (rank == 1) {
      EXPECT_EQ(in, out);
    }
    meet(store, "done", 2);
  });
}

TEST(GlooTransport, APeerWhoseTransportEndedIsGone) {
  with_transports(2, [](auto& transport, int rank, Store& store) {
    std::uint32_t values[3] = {1, 2, 3};
    const auto before = rank == 0 ? transport->recv(1, 0, &values[0], sizeof values[0])
                                  : transport->send(0, 0, &values[0], sizeof values[0]);
    ASSERT_EQ(finish(*before), TransferState::kComplete);
    if (rank == 1) {
      meet(store, "posted", 2);
      transport.reset();
      return;
    }
    const auto recv = transport->recv(1, 1, &values[1], sizeof values[1]);
    const auto send = transport->send(1, 2, &values[2], sizeof values[2]);
    EXPECT_FALSE(transport->gone(1));
    meet(store, "posted", 2);
    EXPECT_EQ(finish(*recv), TransferState::kBroken);
    EXPECT_EQ(finish(*send), TransferState::kBroken);
    EXPECT_EQ(before->state(), TransferState::kComplete);
    EXPECT_TRUE(transport->gone(1));
    EXPECT_THAT(transport->why_gone(1), testing::HasSubstr("Connection closed by peer [127.0.0.1]"));
    EXPECT_THAT(transport->why_gone(1), Not(testing::HasSubstr("pair.cc")));
    EXPECT_EQ(transport->send(1, 0, values, sizeof values)->state(), TransferState::kBroken);
    EXPECT_EQ(transport->recv(1, 0, values, sizeof values)->state(), TransferState::kBroken);
  });
}

/// A write to a connection that the other side has closed must be no SIGPIPE.
TEST(GlooTransport, SendingToAPeerThatLeavesEndsWell) {
  with_transports(2, [](auto& transport, int rank, Store& store) {
    meet(store, "go", 2);
    if (rank == 1) {
      transport.reset();
      return;
    }
    std::uint32_t value = 1;
    std::vector<std::unique_ptr<Transfer>> transfers;
    while (!transport->gone(1)) transfers.push_back(transport->send(1, 0, &value, sizeof value));
    for (const auto& transfer : transfers) EXPECT_EQ(finish(*transfer), TransferState::kBroken);
  });
}

TEST(GlooTransport, TransfersMayOutliveTheTransport) {
  with_transports(2, [](auto& transport, int rank, Store& store) {
    std::uint32_t done = 5;
    std::uint32_t never = 6;
    const auto complete =
        rank == 0 ? transport->send(1, 0, &done, sizeof done) : transport->recv(0, 0, &done, sizeof done);
    ASSERT_EQ(finish(*complete), TransferState::kComplete);
    const auto moving = transport->recv(1 - rank, 1, &never, sizeof never);
    meet(store, "done", 2);
    transport.reset();
    EXPECT_EQ(complete->state(), TransferState::kComplete);
    EXPECT_EQ(moving->state(), TransferState::kBroken);
    moving->wait(std::chrono::seconds(1));
  });
}

TEST(GlooTransport, WhatWasSentArrivesThoughTheSenderEndsAtOnce) {
  for (int round = 0; round < 5; ++round) {
    with_transports(2, [](auto& transport, int rank, Store&) {
      auto bytes = rank == 0 ? message_of((4u << 20) + 3, 9) : std::vector<std::uint8_t>((4u << 20) + 3);
      // What comes in unread while it ends must not reset the connection.
      std::uint32_t unwanted = 0;
      std::vector<std::unique_ptr<Transfer>> transfers;
      const auto transfer = rank == 0 ? transport->send(1, 0, bytes.data(), bytes.size())
                                      : transport->recv(0, 0, bytes.data(), bytes.size());
      while (rank == 1 && transfer->state() == TransferState::kMoving && transfers.size() < 10000) {
        transfers.push_back(transport->send(0, 1, &unwanted, sizeof unwanted));
      }
      ASSERT_EQ(finish(*transfer), TransferState::kComplete);
      if (rank == 0) transport.reset();
      EXPECT_TRUE(bytes == message_of((4u << 20) + 3, 9));
    });
  }
}

TEST(GlooTransport, AMessageLongerThanItsReceiveClosesTheConnection) {
  with_transports(2, [](auto& transport, int rank, Store&) {
    std::vector<std::uint8_t> bytes(rank == 0 ? 100 : 10);
    const auto transfer = rank == 0 ? transport->send(1, 0, bytes.data(), bytes.size())
                                    : transport->recv(0, 0, bytes.data(), bytes.size());
    while (!transport->gone(1 - rank)) transfer->wait(std::chrono::milliseconds(1));
    if (rank == 1) {
      EXPECT_EQ(transfer->state(), TransferState::kBroken);
    }
    EXPECT_EQ(bytes, std::vector<std::uint8_t>(bytes.size()));
    EXPECT_NE(transport->why_gone(1 - rank), "");
  });
}

}  // namespace
}  // namespace lockstep
