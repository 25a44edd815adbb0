// Peers of a Gloo transport that are killed, or slow, while messages move.

#include <signal.h>
#include <unistd.h>

#include <fstream>
#include <iostream>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/backend/gloo/gloo_transport.h"
#include "lockstep/core/base/environment.h"
#include "lockstep/core/store/tcp_store.h"
#include "tests/support/processes.h"

namespace lockstep {
namespace {

using support::ProcessOptions;
using support::run_processes;
using testing::HasSubstr;
using wire::Transfer;
using wire::TransferState;

constexpr std::size_t kNbytes = (8u << 20) + 5;

/// This rank's transport; rank and store are the launcher's.
struct Rank {
  Rank() {
    const std::string address = environment_string("LOCKSTEP_STORE").value();
    const Deadline deadline = Deadline::after(std::chrono::seconds(30));
    store = connect_tcp_store("127.0.0.1", std::stoi(address.substr(address.rfind(':') + 1)), environment.job_token,
                              deadline);
    transport = make_gloo_transport(*store, {"fault", environment.rank, environment.world_size, deadline, {}}, {});
  }
  RankEnvironment environment = read_rank_environment();
  std::shared_ptr<Store> store;
  std::unique_ptr<wire::Transport> transport;
};

TransferState finish(Transfer& transfer) {
  while (transfer.state() == TransferState::kMoving) transfer.wait(std::chrono::milliseconds(50));
  return transfer.state();
}

/// Rank 0 sees everything that it has in flight with rank 1 end, whatever of it had been moving.
LOCKSTEP_WORKER(exchanges_until_the_peer_is_killed) {
  Rank rank;
  const int peer = 1 - rank.environment.rank;
  std::vector<std::vector<char>> buffers(8, std::vector<char>(kNbytes));
  std::vector<std::unique_ptr<Transfer>> transfers;
  for (std::size_t i = 0; i < buffers.size(); ++i) {
    transfers.push_back(i % 2 == 0 ? rank.transport->send(peer, static_cast<int>(i / 2), buffers[i].data(), kNbytes)
                                   : rank.transport->recv(peer, static_cast<int>(i / 2), buffers[i].data(), kNbytes));
  }
  char never = 0;
  const auto unmatched = rank.transport->recv(peer, 100, &never, 1);
  if (rank.environment.rank == 1) {
    support::say_ready();
    finish(*unmatched);
    return 1;
  }
  for (const auto& transfer : transfers) finish(*transfer);
  if (finish(*unmatched) != TransferState::kBroken || !rank.transport->gone(1)) return 2;
  std::cout << rank.transport->why_gone(1) << std::endl;
  // Writing to it is no SIGPIPE.
  return rank.transport->send(1, 0, &never, 1)->state() == TransferState::kBroken ? 0 : 3;
}

TEST(GlooFault, AKilledPeerEndsWhatMoves) {
  ProcessOptions options;
  options.on_line = [](launch::Supervisor& supervisor, const launch::OutputLine& line) {
    if (line.text.starts_with("READY")) supervisor.signal(line.rank, SIGKILL);
  };
  for (int round = 0; round < 3; ++round) {
    const auto result = run_processes(2, "exchanges_until_the_peer_is_killed", {}, options);
    EXPECT_TRUE(result.ranks[0].ok()) << result;
    EXPECT_THAT(result.ranks[0].out, HasSubstr("[127.0.0.1]"));
    EXPECT_EQ(result.ranks[1].signal, SIGKILL) << result;
  }
}

bool is_stopped(pid_t pid) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/stat");
  std::string line;
  std::getline(in, line);
  const auto name_end = line.rfind(')');
  return name_end != std::string::npos && line.substr(name_end + 2, 1) == "T";
}

/// Rank 0 sends its last bytes to a rank that sleeps, wakes it, and ends. Awake, that rank writes to the connection
/// which rank 0 is about to close: unread, that would reset it.
LOCKSTEP_WORKER(sends_to_a_sleeper_and_ends) {
  Rank rank;
  std::vector<char> bytes(kNbytes, rank.environment.rank == 0 ? 'x' : ' ');
  if (rank.environment.rank == 0) {
    const pid_t sleeper = std::stoi(rank.store->get("pid", Deadline::after(std::chrono::seconds(30))));
    while (!is_stopped(sleeper)) std::this_thread::yield();
    const auto sent = rank.transport->send(1, 0, bytes.data(), kNbytes);
    ::kill(sleeper, SIGCONT);
    const TransferState end = finish(*sent);
    rank.transport.reset();
    return end == TransferState::kComplete ? 0 : 1;
  }
  const auto received = rank.transport->recv(0, 0, bytes.data(), kNbytes);
  rank.store->set("pid", std::to_string(::getpid()));
  ::raise(SIGSTOP);
  std::vector<std::unique_ptr<Transfer>> unwanted;
  while (received->state() == TransferState::kMoving && unwanted.size() < 10000) {
    unwanted.push_back(rank.transport->send(0, 1, bytes.data(), 1));
  }
  if (finish(*received) != TransferState::kComplete) return 2;
  return bytes == std::vector<char>(kNbytes, 'x') ? 0 : 3;
}

TEST(GlooFault, TheLastBytesReachASlowReader) {
  const auto result = run_processes(2, "sends_to_a_sleeper_and_ends");
  EXPECT_TRUE(result.ok()) << result;
}

}  // namespace
}  // namespace lockstep
