#include "tests/mp/mpi_exchanges.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "lockstep/core/base/check.h"

namespace lockstep::mp {
namespace {

using wire::Transfer;
using wire::TransferState;
using wire::Transport;
using Bytes = std::vector<std::uint8_t>;

std::vector<int> peers_of(const Transport& transport) {
  std::vector<int> peers;
  for (int rank = 0; rank < transport.world_size(); ++rank) {
    if (rank != transport.rank()) peers.push_back(rank);
  }
  return peers;
}

/// Bytes that tell who sent them, to whom, and as which message.
Bytes message(int from, int to, int number, std::size_t nbytes) {
  Bytes bytes(nbytes);
  std::uint32_t x = static_cast<std::uint32_t>(from * 31 + to * 17 + number) * 2654435761U + 1;
  for (std::uint8_t& byte : bytes) {
    byte = static_cast<std::uint8_t>(x >> 24);
    x = x * 1664525U + 1013904223U;
  }
  return bytes;
}

void finish(Transfer& transfer, const std::string& what) {
  const Deadline deadline = Deadline::after(std::chrono::seconds(50));
  while (transfer.state() == TransferState::kMoving) {
    LS_CHECK(!deadline.passed(), what, " did not complete");
    transfer.wait(std::chrono::milliseconds(10));
  }
  LS_CHECK(transfer.state() == TransferState::kComplete, what, " is broken");
}

struct Flight {
  std::unique_ptr<Transfer> transfer;
  Bytes buffer;
  Bytes expected;  ///< where there is room for more than comes, that stays as it was
  std::string what;
};

class Exchange {
 public:
  explicit Exchange(Transport& transport) : transport_(transport) {}

  void send(int peer, int channel, int number, std::size_t nbytes) {
    Flight& flight = add("send", peer, channel, number);
    flight.buffer = flight.expected = message(transport_.rank(), peer, number, nbytes);
    flight.transfer = transport_.send(peer, channel, flight.buffer.data(), nbytes);
  }
  void recv(int peer, int channel, int number, std::size_t nbytes, std::size_t room = 0) {
    Flight& flight = add("receive", peer, channel, number);
    flight.expected = message(peer, transport_.rank(), number, nbytes);
    flight.expected.resize(nbytes + room, 0xee);
    flight.buffer.assign(nbytes + room, 0xee);
    flight.transfer = transport_.recv(peer, channel, flight.buffer.data(), flight.buffer.size());
  }
  void finish_all() {
    for (const auto& flight : flights_) {
      finish(*flight->transfer, flight->what);
      LS_CHECK(flight->buffer == flight->expected, flight->what, ": the bytes are others");
    }
    flights_.clear();
  }

 private:
  Flight& add(const char* verb, int peer, int channel, int number) {
    flights_.push_back(std::make_unique<Flight>());
    flights_.back()->what =
        base::cat("rank ", transport_.rank(), ": ", verb, " ", number, ", peer ", peer, ", channel ", channel);
    return *flights_.back();
  }

  Transport& transport_;
  std::vector<std::unique_ptr<Flight>> flights_;
};

/// Returns when every rank has come here.
void meet(Transport& transport) {
  Exchange exchange(transport);
  for (const int peer : peers_of(transport)) {
    exchange.recv(peer, 0, 0, 1);
    exchange.send(peer, 0, 0, 1);
  }
  exchange.finish_all();
}

constexpr std::size_t kSizes[] = {0, 1, 7, 4097, 65536, (3 << 20) + 1};

void receives_first(Transport& transport) {
  Exchange exchange(transport);
  for (const int peer : peers_of(transport)) {
    for (int i = 0; i < 6; ++i) exchange.recv(peer, 1, i, kSizes[i], i % 2 == 0 ? 5000 : 0);
  }
  meet(transport);
  for (const int peer : peers_of(transport)) {
    for (int i = 0; i < 6; ++i) exchange.send(peer, 1, i, kSizes[i]);
  }
  exchange.finish_all();
}

void sends_first(Transport& transport) {
  Exchange exchange(transport);
  for (const int peer : peers_of(transport)) {
    for (int i = 0; i < 6; ++i) exchange.send(peer, 2, i, kSizes[i]);
  }
  meet(transport);  // on another channel, past all that waits on this one
  for (const int peer : peers_of(transport)) {
    for (int i = 0; i < 6; ++i) exchange.recv(peer, 2, i, kSizes[i], 3);
  }
  exchange.finish_all();
}

void channels_are_apart(Transport& transport) {
  constexpr std::array<int, 5> kChannels = {3, 4, 1000, Transport::kChannels - 2, Transport::kChannels - 1};
  Exchange exchange(transport);
  for (const int peer : peers_of(transport)) {
    for (std::size_t i = 0; i < kChannels.size(); ++i) exchange.send(peer, kChannels[i], static_cast<int>(i), 33);
    for (std::size_t i = kChannels.size(); i-- > 0;) exchange.recv(peer, kChannels[i], static_cast<int>(i), 33);
  }
  exchange.finish_all();
}

void many_in_flight(Transport& transport) {
  Exchange exchange(transport);
  for (int i = 0; i < 300; ++i) {
    for (const int peer : peers_of(transport)) {
      exchange.send(peer, 5 + i % 3, i, static_cast<std::size_t>(i * 37 % 9000));
      exchange.recv(peer, 5 + i % 3, i, static_cast<std::size_t>(i * 37 % 9000), 11);
    }
  }
  exchange.finish_all();
}

/// A receive that was taken back takes nothing from the one after it.
void receives_are_taken_back(Transport& transport) {
  Exchange exchange(transport);
  Bytes unused(100, 0xee);
  for (const int peer : peers_of(transport)) {
    const auto taken_back = transport.recv(peer, 8, unused.data(), unused.size());
    taken_back->wait(Duration::zero());
    LS_CHECK(taken_back->state() == TransferState::kMoving, "nothing was sent");
  }
  meet(transport);
  for (const int peer : peers_of(transport)) {
    exchange.send(peer, 8, 1, 100);
    exchange.recv(peer, 8, 1, 100);
  }
  exchange.finish_all();
  LS_CHECK(unused == Bytes(100, 0xee), "a receive that was taken back was written to");
}

}  // namespace

void exchange_everything(Transport& transport) {
  LS_CHECK(transport.name() == "mpi", transport.name());
  receives_first(transport);
  sends_first(transport);
  channels_are_apart(transport);
  many_in_flight(transport);
  receives_are_taken_back(transport);
  for (const int peer : peers_of(transport)) {
    LS_CHECK(!transport.gone(peer) && transport.why_gone(peer).empty(), "MPI can't know");
  }
}

void exchange_on_both(Transport& a, Transport& b) {
  Exchange on_a(a);
  Exchange on_b(b);
  for (const int peer : peers_of(a)) on_a.send(peer, 9, 1, 5000);
  for (const int peer : peers_of(b)) on_b.send(peer, 9, 2, 5000);
  if (&a != &b) {
    for (const int peer : peers_of(b)) on_b.recv(peer, 9, 2, 5000);
    on_b.finish_all();
  }
  for (const int peer : peers_of(a)) on_a.recv(peer, 9, 1, 5000);
  if (&a == &b) {
    for (const int peer : peers_of(a)) on_a.recv(peer, 9, 2, 5000);
  }
  on_a.finish_all();
  on_b.finish_all();
}

std::unique_ptr<Transfer> leave_a_receive(Transport& transport) {
  static std::uint8_t never = 0;
  return transport.recv(peers_of(transport).empty() ? transport.rank() : peers_of(transport).front(), 10, &never, 1);
}

void send_and_leave(std::unique_ptr<Transport> transport) {
  Exchange exchange(*transport);
  for (const int peer : peers_of(*transport)) {
    if (transport->rank() % 2 == 0) exchange.send(peer, 11, 1, 4000);
    if (peer % 2 == 0) exchange.recv(peer, 11, 1, 4000);
  }
  exchange.finish_all();
}

void send_to_those_that_left(std::unique_ptr<Transport> transport) {
  Exchange exchange(*transport);
  for (const int peer : peers_of(*transport)) exchange.send(peer, 12, 1, 64);
  exchange.finish_all();
}

}  // namespace lockstep::mp
