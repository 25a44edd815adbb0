#include "lockstep/core/backend/gloo/meeting_point.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <optional>
#include <sstream>
#include <thread>

#include "lockstep/core/backend/in_flight.h"
#include "lockstep/core/backend/meeting.h"
#include "lockstep/core/backend/wire/transport.h"
#include "lockstep/core/base/check.h"
#include "lockstep/core/base/host.h"

namespace lockstep::gloo_tcp {
namespace {

constexpr std::size_t kConnectThreads = 8;
/// Of the greeting: beyond every channel.
constexpr std::uint64_t kGreetingSlot = wire::Transport::kChannels;

struct Greeting {
  std::uint64_t from = 0;  // A hash of what the sender says of itself in the store.
  std::int32_t rank = -1;
  std::int32_t world_size = 0;
};

/// FNV-1a, 64 bits: http://www.isthe.com/chongo/tech/comp/fnv/.
std::uint64_t hash_of(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const char character : text) hash = (hash ^ static_cast<unsigned char>(character)) * 0x100000001b3u;
  return hash;
}

sockaddr_storage socket_address(const std::string& address, int port) {
  sockaddr_storage storage{};
  auto* const v4 = reinterpret_cast<sockaddr_in*>(&storage);
  auto* const v6 = reinterpret_cast<sockaddr_in6*>(&storage);
  if (::inet_pton(AF_INET, address.c_str(), &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(static_cast<std::uint16_t>(port));
  } else {
    LS_REQUIRE(::inet_pton(AF_INET6, address.c_str(), &v6->sin6_addr) == 1, "'", address, "' is no IP address");
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(static_cast<std::uint16_t>(port));
  }
  return storage;
}

int port_of(const sockaddr_storage& storage) {
  return ntohs(storage.ss_family == AF_INET ? reinterpret_cast<const sockaddr_in&>(storage).sin_port
                                            : reinterpret_cast<const sockaddr_in6&>(storage).sin6_port);
}

/// libgloo's rule for which side of a pair connects: the one with the larger address, byte by byte, then port as it
/// lies in memory.
bool connects(const sockaddr_storage& mine, const sockaddr_storage& theirs) {
  int order = 0;
  int ports = 0;
  if (mine.ss_family == AF_INET) {
    const auto& a = reinterpret_cast<const sockaddr_in&>(mine);
    const auto& b = reinterpret_cast<const sockaddr_in&>(theirs);
    order = std::memcmp(&a.sin_addr, &b.sin_addr, sizeof a.sin_addr);
    ports = a.sin_port - b.sin_port;
  } else {
    const auto& a = reinterpret_cast<const sockaddr_in6&>(mine);
    const auto& b = reinterpret_cast<const sockaddr_in6&>(theirs);
    order = std::memcmp(&a.sin6_addr, &b.sin6_addr, sizeof a.sin6_addr);
    ports = a.sin6_port - b.sin6_port;
  }
  return order != 0 ? order > 0 : ports > 0;
}

std::string list(const std::vector<int>& ranks) {
  std::string text;
  for (const int rank : ranks) text += base::cat(text.empty() ? "" : ", ", rank);
  return text;
}

/// Runs libgloo's blocking connects, several at a time. Its destructor ends those that still wait.
class Connecting {
 public:
  using Target = std::pair<Connection*, std::vector<char>>;

  explicit Connecting(std::vector<Target> targets) : targets_(std::move(targets)) {
    for (std::size_t i = 0; i < std::min(kConnectThreads, targets_.size()); ++i) {
      threads_.emplace_back([this] { run(); });
    }
  }
  ~Connecting() {
    next_.store(targets_.size());
    for (const auto& [connection, address] : targets_) {
      if (!connection->connected()) connection->close();
    }
    for (std::thread& thread : threads_) thread.join();
  }
  Connecting(const Connecting&) = delete;
  Connecting& operator=(const Connecting&) = delete;

 private:
  void run() noexcept {
    for (;;) {
      const std::size_t i = next_.fetch_add(1);
      if (i >= targets_.size()) return;
      try {
        targets_[i].first->connect(targets_[i].second);
      } catch (const std::exception&) {
        // The connection is closed then, and says why.
      }
    }
  }

  std::vector<Target> targets_;
  std::atomic<std::size_t> next_{0};
  std::vector<std::thread> threads_;
};

}  // namespace

std::string Whereabouts::text() const {
  std::string text = base::cat(protocol, ' ', boot_id, ' ', host, ' ', address);
  for (const int port : ports) text += base::cat(' ', port);
  return text;
}

Whereabouts Whereabouts::parse(const std::string& text) {
  std::istringstream in(text);
  Whereabouts parsed;
  in >> parsed.protocol;
  if (parsed.protocol != kProtocol) return parsed;
  in >> parsed.boot_id >> parsed.host >> parsed.address;
  LS_REQUIRE(!in.fail(), "malformed address of a rank in the store: '", text, "'");
  for (int port = 0; in >> port;) parsed.ports.push_back(port);
  return parsed;
}

MeetingPoint::MeetingPoint(Store& store, const Meeting& meeting, std::vector<int> peers)
    : store_(store), meeting_(meeting), peers_(std::move(peers)) {}

std::string MeetingPoint::who() const {
  return base::cat("rank ", meeting_.rank, "/", meeting_.world_size, " group ", meeting_.group, " (gloo): ");
}

std::string MeetingPoint::key_of(int rank) const { return base::cat("gloo.", rank); }

void MeetingPoint::meet(const std::string& address, const std::vector<Connection*>& connections,
                        const std::shared_ptr<tcp::Context>& context) {
  publish(address, connections);
  read();
  for (const int peer : peers_) check(peer);
  connect(connections);
  greet(connections, context);
  // Who has greeted has read it: the store need not grow with the number of groups.
  store_.erase(key_of(meeting_.rank));
}

void MeetingPoint::publish(const std::string& address, const std::vector<Connection*>& connections) {
  mine_ = {std::string(kProtocol), base::boot_id(), base::host_name(), address, {}};
  for (Connection* const connection : connections) {
    mine_.ports.push_back(
        connection == nullptr ? 0 : port_of(dynamic_cast<const tcp::Address&>(connection->address()).getSockaddr()));
  }
  store_.set(key_of(meeting_.rank), mine_.text());
}

template <typename Missing>
void MeetingPoint::nap(Missing missing, std::string_view what) {
  constexpr std::chrono::microseconds kLongest{2000};
  constexpr std::chrono::microseconds kShort{100};  // Others may wait for each piece of what is in flight here.
  if (meeting_.deadline.passed()) {
    const std::vector<int> ranks = missing();
    if (ranks.empty()) return;
    throw TimeoutError(
        base::cat(who(), "waited ", seconds(meeting_.deadline.timeout()), " s for rank(s) ", list(ranks), " to ", what),
        ranks.front());
  }
  InFlightList& in_flight = InFlightList::of_this_thread();
  in_flight.progress_others(nullptr);
  if (meeting_.while_waiting) meeting_.while_waiting();
  std::this_thread::sleep_for(nap_);
  nap_ = std::min(nap_ * 2, in_flight.empty() ? kLongest : kShort);
}

void MeetingPoint::read() {
  const auto missing = [this] {
    std::vector<int> ranks;
    for (const int peer : peers_) {
      if (!theirs_.contains(peer) && !store_.try_get(key_of(peer))) ranks.push_back(peer);
    }
    return ranks;
  };
  for (const int peer : peers_) {
    std::optional<std::string> text;
    while (!(text = store_.try_get(key_of(peer)))) nap(missing, "arrive; check that they were started");
    theirs_[peer] = Whereabouts::parse(*text);
  }
}

void MeetingPoint::check(int peer) const {
  const Whereabouts& theirs = theirs_.at(peer);
  check_protocol(meeting_, peer, theirs.protocol);
  const auto rank = static_cast<std::size_t>(meeting_.rank);
  LS_REQUIRE(static_cast<int>(theirs.ports.size()) == meeting_.world_size, who(), "this rank was told a world size of ",
             meeting_.world_size, ", rank ", peer, " one of ", theirs.ports.size(),
             "; start all ranks with one launcher");
  LS_REQUIRE(theirs.ports[rank] != 0, who(), "rank ", peer, " is a peer of this rank, but not the other way round");
  const bool one_host = theirs.boot_id == mine_.boot_id;
  LS_REQUIRE(one_host || (!mine_.is_loopback() && !theirs.is_loopback()), who(), "rank ", meeting_.rank, " is on host ",
             mine_.host, " at ", mine_.address, ", rank ", peer, " on host ", theirs.host, " at ", theirs.address,
             ": a loopback address can't be reached from another host; name the network interface to use");
  LS_REQUIRE(mine_.is_ipv6() == theirs.is_ipv6(), who(), "this rank is at ", mine_.address, ", rank ", peer, " at ",
             theirs.address, ": both must be IPv4, or both IPv6; name the network interface to use");
}

void MeetingPoint::left(int peer, Connection& connection) const {
  const Whereabouts& theirs = theirs_.at(peer);
  throw PeerError(base::cat(who(), "no connection with rank ", peer, " on host ", theirs.host, " at ", theirs.address,
                            ": ", connection.why_closed(), "; it ended, or a firewall is in between"),
                  peer);
}

void MeetingPoint::connect(const std::vector<Connection*>& connections) {
  std::vector<Connecting::Target> targets;
  for (const int peer : peers_) {
    const auto at = static_cast<std::size_t>(peer);
    const sockaddr_storage mine = socket_address(mine_.address, mine_.ports[at]);
    const sockaddr_storage theirs =
        socket_address(theirs_[peer].address, theirs_[peer].ports[static_cast<std::size_t>(meeting_.rank)]);
    // The other side is connected by libgloo's thread, and need not be waited for.
    if (connects(mine, theirs)) targets.emplace_back(connections[at], tcp::Address(theirs).bytes());
  }
  const Connecting connecting(std::move(targets));
  const auto missing = [&] {
    std::vector<int> ranks;
    for (const int peer : peers_) {
      Connection& connection = *connections[static_cast<std::size_t>(peer)];
      if (connection.closed()) left(peer, connection);
      if (!connection.connected()) ranks.push_back(peer);
    }
    return ranks;
  };
  nap_ = std::chrono::microseconds(10);
  while (!missing().empty()) nap(missing, "connect; check that a firewall does not drop what it sends");
}

void MeetingPoint::greet(const std::vector<Connection*>& connections, const std::shared_ptr<tcp::Context>& context) {
  const Greeting hello{hash_of(mine_.text()), meeting_.rank, meeting_.world_size};
  Greeting sent = hello;
  std::vector<Greeting> greetings(connections.size());
  std::vector<std::unique_ptr<Buffer>> buffers;
  std::map<int, Buffer*> expected;
  for (const int peer : peers_) {
    Connection& connection = *connections[static_cast<std::size_t>(peer)];
    Greeting& greeting = greetings[static_cast<std::size_t>(peer)];
    try {
      expected[peer] = buffers.emplace_back(std::make_unique<Buffer>(context, &greeting, sizeof greeting)).get();
      expected[peer]->recv(peer, kGreetingSlot, 0, sizeof greeting);
      buffers.emplace_back(std::make_unique<Buffer>(context, &sent, sizeof sent))
          ->send(peer, kGreetingSlot, 0, sizeof sent);
    } catch (const std::exception&) {
      left(peer, connection);
    }
  }
  const auto missing = [&] {
    std::vector<int> ranks;
    for (std::size_t i = 0; i < buffers.size(); ++i) {
      const int peer = peers_[i / 2];
      Connection& connection = *connections[static_cast<std::size_t>(peer)];
      const bool closed = connection.closed();
      if (buffers[i]->completed()) continue;
      if (closed) left(peer, connection);
      if (ranks.empty() || ranks.back() != peer) ranks.push_back(peer);
    }
    return ranks;
  };
  nap_ = std::chrono::microseconds(10);
  while (!missing().empty()) nap(missing, "greet");
  for (const int peer : peers_) {
    const Greeting& greeting = greetings[static_cast<std::size_t>(peer)];
    LS_REQUIRE(greeting.from == hash_of(theirs_[peer].text()) && greeting.rank == peer &&
                   greeting.world_size == hello.world_size,
               who(), "who connected as rank ", peer, " is rank ", greeting.rank, "/", greeting.world_size,
               " of another group; use fresh keys of the store for each group");
  }
}

}  // namespace lockstep::gloo_tcp
