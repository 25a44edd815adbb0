// The harness itself: what it says of processes that exit, die, hang and print.

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <iostream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/base/environment.h"
#include "lockstep/core/base/error.h"
#include "lockstep/core/store/tcp_store.h"
#include "tests/support/processes.h"
#include "tests/support/ranks.h"

namespace lockstep {
namespace {

using support::run_processes;
using support::run_ranks;
using testing::HasSubstr;

LOCKSTEP_WORKER(exits_with_its_rank) {
  std::cout << "rank " << read_rank_environment().rank << "\n";
  std::cerr << arguments.at(0) << "\n";
  return read_rank_environment().rank;
}

LOCKSTEP_WORKER(throws_a_peer_error) { throw PeerError("rank 1 is gone", 1); }

LOCKSTEP_WORKER(says_ready_and_waits) {
  support::say_ready("to go");
  ::pause();
  return 0;
}

LOCKSTEP_WORKER(meets_in_the_store) {
  const RankEnvironment environment = read_rank_environment();
  const std::string address = environment_string("LOCKSTEP_STORE").value();
  const int port = std::stoi(address.substr(address.rfind(':') + 1));
  const Deadline deadline = Deadline::after(std::chrono::seconds(20));
  const auto store = connect_tcp_store("127.0.0.1", port, environment.job_token, deadline);
  store->set("rank" + std::to_string(environment.rank), std::to_string(environment.rank));
  int sum = 0;
  for (int rank = 0; rank < environment.world_size; ++rank) {
    sum += std::stoi(store->get("rank" + std::to_string(rank), deadline));
  }
  std::cout << sum << "\n";
  store->add("done", 1);
  return 0;
}

TEST(RunProcesses, GivesEachRanksEndAndOutput) {
  const auto result = run_processes(3, "exits_with_its_rank", {"an argument"});
  EXPECT_FALSE(result.ok());
  ASSERT_EQ(result.ranks.size(), 3u);
  for (int rank = 0; rank < 3; ++rank) {
    const auto& end = result.ranks[static_cast<std::size_t>(rank)];
    EXPECT_EQ(end.exit_code, rank);
    EXPECT_EQ(end.signal, 0);
    EXPECT_EQ(end.out, "rank " + std::to_string(rank) + "\n");
    EXPECT_EQ(end.err, "an argument\n");
  }
}

TEST(RunProcesses, NamesTheTypeOfAnException) {
  const auto result = run_processes(1, "throws_a_peer_error");
  EXPECT_EQ(result.ranks[0].exit_code, support::kThrew);
  EXPECT_EQ(result.ranks[0].err, "PeerError: rank 1 is gone\n");
}

TEST(RunProcesses, RanksMeetInTheStoreOfTheTest) {
  const auto result = run_processes(3, "meets_in_the_store");
  EXPECT_TRUE(result.ok()) << result;
  for (const auto& end : result.ranks) EXPECT_EQ(end.out, "3\n") << result;
}

TEST(RunProcesses, SignalsAProcessWhenItIsReady) {
  support::ProcessOptions options;
  options.on_line = [](launch::Supervisor& supervisor, const launch::OutputLine& line) {
    if (line.text == "READY to go") supervisor.signal(line.rank, line.rank == 0 ? SIGKILL : SIGTERM);
  };
  const auto result = run_processes(2, "says_ready_and_waits", {}, options);
  EXPECT_FALSE(result.deadline_passed);
  EXPECT_EQ(result.ranks[0].signal, SIGKILL) << result;
  EXPECT_EQ(result.ranks[1].signal, SIGTERM) << result;
}

TEST(RunProcesses, KillsWhatHangsAtTheDeadline) {
  support::ProcessOptions options;
  options.deadline = std::chrono::milliseconds(300);
  const auto result = run_processes(2, "says_ready_and_waits", {}, options);
  EXPECT_TRUE(result.deadline_passed);
  for (const auto& end : result.ranks) {
    EXPECT_EQ(end.signal, SIGKILL);
    EXPECT_EQ(::kill(end.pid, 0), -1) << "pid " << end.pid << " is still there";
  }
}

TEST(RunRanks, CallsEachRankOnce) {
  std::atomic<int> sum{0};
  run_ranks(5, [&](int rank) { sum += 1 << rank; });
  EXPECT_EQ(sum, 31);
}

TEST(RunRanks, RethrowsWhatARankThrew) {
  EXPECT_THROW(run_ranks(3,
                         [](int rank) {
                           if (rank == 1) throw UsageError("mine");
                         }),
               UsageError);
}

TEST(RunRanksDeathTest, AbortsWhenARankHangs) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(run_ranks(
                   2,
                   [](int rank) {
                     if (rank == 1) ::pause();
                   },
                   std::chrono::milliseconds(200)),
               "rank 1 of 2 has not returned");
}

}  // namespace
}  // namespace lockstep
