#include "lockstep/core/io/socket.h"

#include <poll.h>

#include <cerrno>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/base/error.h"

namespace lockstep::io {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;

Deadline soon() { return Deadline::after(milliseconds(30)); }
Deadline generous() { return Deadline::after(std::chrono::seconds(60)); }

Socket accept_one(Listener& listener) {
  pollfd entry{listener.fd(), POLLIN, 0};
  EXPECT_EQ(::poll(&entry, 1, 60'000), 1);
  auto fd = listener.accept();
  EXPECT_TRUE(fd.has_value());
  return Socket(std::move(*fd), "client");
}

struct Pair {
  Listener listener{"127.0.0.1", 0};
  Socket client = connect_tcp("127.0.0.1", listener.port(), generous());
  Socket server = accept_one(listener);
};

TEST(Socket, BytesOfEverySizeArrive) {
  Pair pair;
  for (const std::size_t size : {0, 1, 1000, 3'000'001}) {
    std::string sent(size, '\0');
    for (std::size_t i = 0; i < size; ++i) sent[i] = static_cast<char>(i * 7);
    std::string received(size, 'x');
    std::thread sender([&] { pair.client.send_all(sent.data(), sent.size(), generous()); });
    pair.server.recv_all(received.data(), received.size(), generous());
    sender.join();
    EXPECT_EQ(received == sent, true) << size;
  }
}

TEST(Socket, AReceiveEndsAtItsDeadlineAndNamesThePeer) {
  Pair pair;
  char byte = 0;
  try {
    pair.client.recv_all(&byte, 1, soon());
    FAIL();
  } catch (const TimeoutError& error) {
    EXPECT_THAT(error.what(), HasSubstr(host_and_port("127.0.0.1", pair.listener.port())));
    EXPECT_THAT(error.what(), HasSubstr("timed out after 0.03 s"));
  }
}

TEST(Socket, ASendToAPeerThatDoesNotReadEndsAtItsDeadline) {
  Pair pair;
  const std::string data(64 << 20, 'x');
  EXPECT_THROW(pair.client.send_all(data.data(), data.size(), soon()), TimeoutError);
}

TEST(Socket, APeerThatIsGoneIsAPeerError) {
  Pair pair;
  pair.server = Socket();
  char byte = 0;
  EXPECT_THROW(pair.client.recv_all(&byte, 1, generous()), PeerError);
  const std::string data(64 << 20, 'x');
  EXPECT_THROW(pair.client.send_all(data.data(), data.size(), generous()), PeerError);
}

TEST(Listener, APortInUseNamesTheWayOut) {
  const Listener first("127.0.0.1", 0);
  try {
    const Listener second("127.0.0.1", first.port());
    FAIL();
  } catch (const SystemError& error) {
    EXPECT_EQ(error.code(), EADDRINUSE);
    EXPECT_THAT(error.what(), HasSubstr("listen on 127.0.0.1:" + std::to_string(first.port())));
    EXPECT_THAT(error.what(), HasSubstr("--master-port"));
  }
}

TEST(Listener, TheSamePortServesAgainAtOnce) {
  std::optional<Listener> first(std::in_place, "127.0.0.1", 0);
  const int port = first->port();
  Socket client = connect_tcp("127.0.0.1", port, generous());
  Socket server = accept_one(*first);
  server = Socket();  // the side that closes first keeps the port in TIME_WAIT
  first.reset();
  const Listener second("127.0.0.1", port);
  EXPECT_EQ(second.port(), port);
}

TEST(Listener, HasNothingToAcceptWithoutAConnection) {
  Listener listener("127.0.0.1", 0);
  EXPECT_EQ(listener.accept(), std::nullopt);
}

TEST(Listener, BadAddressesAndPortsAreUsageErrors) {
  EXPECT_THROW(Listener("no such host.invalid", 0), UsageError);
  EXPECT_THROW(Listener("127.0.0.1", 65536), UsageError);
  EXPECT_THROW(Listener("127.0.0.1", -1), UsageError);
}

TEST(ConnectTcp, NobodyThereIsATimeoutThatNamesHostPortAndReason) {
  int port = 0;
  {
    const Listener listener("127.0.0.1", 0);
    port = listener.port();
  }
  try {
    connect_tcp("127.0.0.1", port, soon());
    FAIL();
  } catch (const TimeoutError& error) {
    EXPECT_THAT(error.what(), HasSubstr("connect to 127.0.0.1:" + std::to_string(port) + " timed out after 0.03 s"));
    EXPECT_THAT(error.what(), HasSubstr("Connection refused"));
  }
}

TEST(ConnectTcp, WaitsForAServerThatStartsLater) {
  int port = 0;
  {
    const Listener listener("127.0.0.1", 0);
    port = listener.port();
  }
  std::optional<Socket> client;
  std::thread thread([&] { client.emplace(connect_tcp("127.0.0.1", port, generous())); });
  Listener late("127.0.0.1", port);
  Socket server = accept_one(late);
  thread.join();
  server.send_all("x", 1, generous());
  char byte = 0;
  client->recv_all(&byte, 1, generous());
  EXPECT_EQ(byte, 'x');
}

TEST(ConnectTcp, AHostWithoutAnAddressIsAUsageErrorAtOnce) {
  EXPECT_THROW(connect_tcp("no such host", 1, generous()), UsageError);
}

// As of localhost where IPv6 is off: 127.0.0.1 and ::1.
TEST(TryEach, AnAddressThatMayAnswerLaterOutweighsOneThatNeverWill) {
  const auto result = [](const std::vector<int>& errors) {
    return try_each(errors.size(), generous(), [&](std::size_t index, const Deadline&) { return errors[index]; });
  };
  EXPECT_EQ(result({ECONNREFUSED, EADDRNOTAVAIL}), ECONNREFUSED);
  EXPECT_EQ(result({EAFNOSUPPORT, ECONNREFUSED}), ECONNREFUSED);
  EXPECT_EQ(result({EADDRNOTAVAIL, ETIMEDOUT, EACCES}), ETIMEDOUT);
  EXPECT_EQ(result({EADDRNOTAVAIL, EACCES}), EACCES);
  EXPECT_EQ(result({EADDRNOTAVAIL, 0}), 0);
}

TEST(TryEach, EndsWithTheFirstThatAnswers) {
  std::vector<std::size_t> tried;
  const int error = try_each(3, generous(), [&](std::size_t index, const Deadline&) {
    tried.push_back(index);
    return index == 1 ? 0 : ECONNREFUSED;
  });
  EXPECT_EQ(error, 0);
  EXPECT_EQ(tried, (std::vector<std::size_t>{0, 1}));
}

TEST(TryEach, EachAddressLeavesTheOthersAFairShare) {
  std::vector<Duration> shares;
  try_each(3, Deadline::after(std::chrono::hours(6)), [&](std::size_t, const Deadline& deadline) {
    shares.push_back(deadline.timeout());
    return ECONNREFUSED;
  });
  ASSERT_EQ(shares.size(), 3u);
  EXPECT_LE(shares[0], std::chrono::hours(2));
  EXPECT_LE(shares[1], std::chrono::hours(3));
  EXPECT_LE(shares[2], std::chrono::hours(6));
  // What the others left over is the last one's.
  EXPECT_GT(shares[2], std::chrono::hours(3));
  try_each(2, Deadline::none(), [](std::size_t, const Deadline& deadline) {
    EXPECT_FALSE(deadline.bounded());
    return ECONNREFUSED;
  });
}

TEST(HostAndPort, PutsBracketsAroundIPv6) {
  EXPECT_EQ(host_and_port("node0", 80), "node0:80");
  EXPECT_EQ(host_and_port("::1", 80), "[::1]:80");
  EXPECT_EQ(host_and_port("::1", "(later)"), "[::1]:(later)");
}

TEST(SplitHostPort, TakesBracketsOffAndFillsThePortIn) {
  const auto split = [](const char* text) {
    const std::optional<HostPort> out = split_host_port(text, 7);
    return out ? out->host + " " + std::to_string(out->port) : "nothing";
  };
  EXPECT_EQ(split("node0"), "node0 7");
  EXPECT_EQ(split("node0:80"), "node0 80");
  EXPECT_EQ(split("192.0.2.1:0"), "192.0.2.1 0");
  EXPECT_EQ(split("[fd00::1]"), "fd00::1 7");
  EXPECT_EQ(split("[fd00::1]:65535"), "fd00::1 65535");
  EXPECT_EQ(split("[fe80::1%eth0]:80"), "fe80::1%eth0 80");
  for (const auto& [host, port] : {std::pair{"node0", 80}, {"fd00::1", 1}}) {
    EXPECT_EQ(split(host_and_port(host, port).c_str()), host + (" " + std::to_string(port)));
  }
}

TEST(SplitHostPort, RefusesEverythingElse) {
  for (const char* text : {"",
                           ":",
                           ":80",
                           "node0:",
                           "node0:x",
                           "node0:-1",
                           "node0:+1",
                           "node0: 1",
                           "node0:65536",
                           "node0:100000",
                           "node0:4294967376",
                           "fd00::1",
                           "::1",
                           "::",
                           "fd00::1:80",
                           "a:1:2",
                           "[]",
                           "[]:80",
                           "[fd00::1",
                           "[fd00::1]80",
                           "[fd00::1]:",
                           "[fd00::1]:x",
                           "[fd00::1]]:80",
                           "[[fd00::1]:80",
                           "fd00::1]:80",
                           "node0]:80",
                           "[node0]:80"}) {
    EXPECT_FALSE(split_host_port(text, 7)) << "'" << text << "' was accepted";
  }
}

}  // namespace
}  // namespace lockstep::io
