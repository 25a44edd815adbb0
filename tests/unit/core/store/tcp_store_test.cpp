#include "lockstep/core/store/tcp_store.h"

#include <sys/socket.h>

#include <atomic>
#include <cerrno>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/base/error.h"
#include "lockstep/core/io/socket.h"
#include "lockstep/core/store/wire.h"

namespace lockstep {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using store::Frame;
using store::FrameType;
using testing::HasSubstr;

Deadline generous() { return Deadline::after(seconds(300)); }

std::shared_ptr<Store> client_of(const TcpStoreServer& server, const std::string& token = "secret") {
  return connect_tcp_store("127.0.0.1", server.port(), token, generous());
}

TcpStoreServerOptions options() { return {.token = "secret"}; }

/// A client that may send anything.
class RawClient {
 public:
  explicit RawClient(const TcpStoreServer& server) : socket_(io::connect_tcp("127.0.0.1", server.port(), generous())) {}

  void send(const std::string& bytes) { socket_.send_all(bytes.data(), bytes.size(), generous()); }
  void send(const Frame& frame) { send(store::encode_frame(frame)); }
  void hello() {
    send({.type = FrameType::kHello, .value = "secret"});
    EXPECT_EQ(receive_type(), FrameType::kValue);
  }
  FrameType receive_type() {
    std::string bytes;
    for (;;) {
      const auto parsed = store::parse_frame(bytes, store::Expect::kReply);
      if (parsed.status != store::ParsedFrame::Status::kIncomplete) return parsed.frame.type;
      const std::size_t old_size = bytes.size();
      bytes.resize(parsed.nbytes);
      socket_.recv_all(bytes.data() + old_size, parsed.nbytes - old_size, generous());
    }
  }
  bool is_closed() {
    char byte = 0;
    try {
      socket_.recv_all(&byte, 1, generous());
    } catch (const PeerError&) {
      return true;
    }
    return false;
  }
  void finish_sending() { ::shutdown(socket_.fd(), SHUT_WR); }

 private:
  io::Socket socket_;
};

TEST(TcpStore, AWrongTokenIsAUsageErrorAndTouchesNothing) {
  TcpStoreServer server(options());
  for (const std::string token : {"", "secre", "secret2", "Secret"}) {
    try {
      client_of(server, token);
      ADD_FAILURE() << "token '" << token << "' was accepted";
    } catch (const UsageError& error) {
      EXPECT_THAT(error.what(), HasSubstr("127.0.0.1:" + std::to_string(server.port())));
      EXPECT_THAT(error.what(), HasSubstr("LOCKSTEP_JOB_TOKEN"));
      EXPECT_THAT(error.what(), testing::Not(HasSubstr("secret")));
    }
  }
  client_of(server)->set("key", "value");
}

TEST(TcpStore, NothingIsAnsweredBeforeTheToken) {
  TcpStoreServer server(options());
  server.local()->set("key", "value");
  RawClient client(server);
  client.send({.type = FrameType::kGet, .key = "key"});
  EXPECT_EQ(client.receive_type(), FrameType::kMalformed);
  EXPECT_TRUE(client.is_closed());
}

TEST(TcpStore, AServerWithoutATokenTakesClientsWithoutOne) {
  TcpStoreServer server({});
  connect_tcp_store("127.0.0.1", server.port(), "", generous())->set("key", "value");
  EXPECT_EQ(server.local()->try_get("key"), "value");
  EXPECT_THROW(client_of(server, "some"), UsageError);
}

TEST(TcpStore, LocalAndRemoteHandlesWakeEachOther) {
  TcpStoreServer server(options());
  const auto local = server.local();
  const auto remote = client_of(server);
  std::thread echo([&] { remote->set("pong", remote->get("ping", generous())); });
  local->set("ping", "ball");
  EXPECT_EQ(local->get("pong", generous()), "ball");
  echo.join();
}

TEST(TcpStore, APortInUseSaysHowToChooseAnother) {
  TcpStoreServer first(options());
  try {
    TcpStoreServer second({.port = first.port()});
    FAIL();
  } catch (const SystemError& error) {
    EXPECT_EQ(error.code(), EADDRINUSE);
    EXPECT_THAT(error.what(), HasSubstr("127.0.0.1:" + std::to_string(first.port())));
    EXPECT_THAT(error.what(), HasSubstr("the port is in use; choose another (--master-port"));
  }
}

TEST(TcpStore, BadOptionsAreUsageErrors) {
  EXPECT_THROW(TcpStoreServer({.max_clients = 0}), UsageError);
  EXPECT_THROW(TcpStoreServer({.port = 70'000}), UsageError);
  EXPECT_THROW(TcpStoreServer({.token = std::string(1025, 't')}), UsageError);
}

TEST(TcpStore, ClientsBeyondTheLimitAreToldAndOthersGoOn) {
  TcpStoreServer server({.token = "secret", .max_clients = 3});
  std::vector<std::shared_ptr<Store>> clients;
  for (int i = 0; i < 3; ++i) clients.push_back(client_of(server));
  for (int i = 0; i < 5; ++i) {
    try {
      client_of(server);
      FAIL() << "a fourth client was taken";
    } catch (const SystemError& error) {
      EXPECT_THAT(error.what(), HasSubstr("serves 3 clients already"));
    }
  }
  for (const auto& client : clients) client->add("n", 1);
  EXPECT_EQ(server.local()->try_get("n"), "3");
  // A place is free again once the server has seen a client leave.
  clients.pop_back();
  const Deadline deadline = generous();
  while (clients.size() < 3 && !deadline.passed()) {
    try {
      clients.push_back(client_of(server));
    } catch (const SystemError&) {
      std::this_thread::yield();
    }
  }
  EXPECT_EQ(clients.size(), 3U);
}

TEST(TcpStore, AServerThatEndsWakesThoseWhoWait) {
  std::optional<TcpStoreServer> server(std::in_place, options());
  const int port = server->port();
  const auto client = client_of(*server);
  const auto local = server->local();
  std::atomic<int> waiting{0};
  std::atomic<int> gone{0};
  std::vector<std::thread> threads;
  for (const auto& store : {client, client, client, local}) {
    threads.emplace_back([&waiting, &gone, store] {
      ++waiting;
      try {
        store->get("never", generous());
      } catch (const PeerError& error) {
        EXPECT_THAT(error.what(), HasSubstr("store at 127.0.0.1:"));
        ++gone;
      }
    });
  }
  while (waiting < 4) std::this_thread::yield();
  server.reset();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(gone, 4);
  try {
    client->set("key", "value");
    FAIL();
  } catch (const PeerError& error) {
    EXPECT_THAT(error.what(), HasSubstr("127.0.0.1:" + std::to_string(port)));
  }
}

TEST(TcpStore, ATimedOutGetIsForgotten) {
  TcpStoreServer server(options());
  const auto client = client_of(server);
  for (int i = 0; i < 10; ++i) EXPECT_THROW(client->get("late", Deadline::after(milliseconds(2))), TimeoutError);
  server.local()->set("late", "now");
  EXPECT_EQ(client->get("late", generous()), "now");
}

TEST(TcpStore, AClientStartsBeforeItsServer) {
  int port = 0;
  {
    const io::Listener listener("127.0.0.1", 0);
    port = listener.port();
  }
  std::thread early([port] { connect_tcp_store("127.0.0.1", port, "secret", generous())->set("early", "bird"); });
  TcpStoreServer server({.port = port, .token = "secret"});
  EXPECT_EQ(server.local()->get("early", generous()), "bird");
  early.join();
}

TEST(TcpStore, NoServerIsATimeoutThatNamesHostAndPort) {
  int port = 0;
  {
    const io::Listener listener("127.0.0.1", 0);
    port = listener.port();
  }
  try {
    connect_tcp_store("127.0.0.1", port, "", Deadline::after(milliseconds(20)));
    FAIL();
  } catch (const TimeoutError& error) {
    EXPECT_THAT(error.what(), HasSubstr("127.0.0.1:" + std::to_string(port)));
  }
}

TEST(TcpStore, AServerOfAnotherProtocolIsNamed) {
  io::Listener listener("127.0.0.1", 0);
  std::thread other([&listener] {
    const Deadline deadline = generous();
    while (!deadline.passed()) {
      if (auto fd = listener.accept()) {
        io::Socket(*std::move(fd), "client").send_all("SSH-2.0-OpenSSH\r\n", 17, deadline);
        return;
      }
      std::this_thread::yield();
    }
  });
  EXPECT_THROW(
      {
        try {
          connect_tcp_store("127.0.0.1", listener.port(), "", generous());
        } catch (const SystemError& error) {
          EXPECT_EQ(error.code(), EPROTO);
          EXPECT_THAT(error.what(), HasSubstr("is another program listening on this port?"));
          throw;
        }
      },
      SystemError);
  other.join();
}

TEST(TcpStore, TheLargestValueAndKeyComeBack) {
  TcpStoreServer server(options());
  const auto client = client_of(server);
  const std::string key(1024, 'k');
  std::string value(64 << 20, '\0');
  for (std::size_t i = 0; i < value.size(); i += 997) value[i] = static_cast<char>(i);
  client->set(key, value);
  EXPECT_EQ(client->get(key, generous()) == value, true);
}

TEST(TcpStore, ASlowReaderHoldsUpNobody) {
  TcpStoreServer server(options());
  const auto good = client_of(server);
  good->set("big", std::string(16 << 20, 'x'));
  std::vector<std::unique_ptr<RawClient>> slow;
  for (int i = 0; i < 3; ++i) {
    slow.push_back(std::make_unique<RawClient>(server));
    slow.back()->hello();
    slow.back()->send({.type = FrameType::kGet, .key = "big"});  // and never reads the answer
  }
  for (int i = 1; i <= 100; ++i) EXPECT_EQ(good->add("n", 1), i);
  EXPECT_EQ(slow.front()->receive_type(), FrameType::kValue);  // it is whole for those who read late
}

TEST(TcpStore, ASlowWriterHoldsUpNobody) {
  TcpStoreServer server(options());
  RawClient slow(server);
  const std::string hello = store::encode_frame({.type = FrameType::kHello, .value = "secret"});
  const std::string set = store::encode_frame({.type = FrameType::kSet, .key = "slow", .value = "value"});
  const auto good = client_of(server);
  for (const char c : hello) {
    slow.send(std::string(1, c));
    good->add("n", 1);
  }
  EXPECT_EQ(slow.receive_type(), FrameType::kValue);
  for (const char c : set) {
    slow.send(std::string(1, c));
    good->add("n", 1);
  }
  EXPECT_EQ(slow.receive_type(), FrameType::kValue);
  EXPECT_EQ(good->try_get("slow"), "value");
}

TEST(TcpStore, ARequestWhileOneWaitsEndsThatConnectionOnly) {
  TcpStoreServer server(options());
  RawClient client(server);
  client.hello();
  client.send({.type = FrameType::kGet, .key = "missing"});
  client.send({.type = FrameType::kGet, .key = "missing"});
  EXPECT_EQ(client.receive_type(), FrameType::kMalformed);
  EXPECT_TRUE(client.is_closed());
  server.local()->set("missing", "now");  // wakes nobody, and nothing that is gone
  EXPECT_EQ(client_of(server)->try_get("missing"), "now");
}

TEST(TcpStore, ServesGoodClientsThroughTwoThousandBadFrames) {
  TcpStoreServer server(options());
  const auto good = client_of(server);
  std::mt19937 random(3);
  const std::string valid =
      store::encode_frame({.type = FrameType::kCompareAndSet, .flags = 1, .key = "k", .value = "v", .expected = "e"});
  for (int i = 1; i <= 2000; ++i) {
    RawClient bad(server);
    if (i % 2 == 0) bad.hello();
    std::string bytes = valid;
    if (i % 3 == 0) {
      for (char& c : bytes) c = static_cast<char>(random());
    } else {
      bytes[random() % bytes.size()] = static_cast<char>(random());
      if (i % 5 == 0) bytes.resize(1 + random() % bytes.size());
    }
    try {
      bad.send(bytes);
      if (i % 7 == 0) bad.send(bytes);
      bad.finish_sending();
      while (!bad.is_closed()) continue;
    } catch (const PeerError&) {
      // The server may hang up before all of it was sent.
    }
    ASSERT_EQ(good->add("n", 1), i);
  }
}

}  // namespace
}  // namespace lockstep
