// Ranks on several hosts, under the environment that torchrun gives.

#include "tests/net/net_worker.h"

#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/base/environment.h"
#include "lockstep/core/base/error.h"
#include "lockstep/core/store/tcp_store.h"

namespace lockstep::net {
namespace {

using support::Hosts;
using support::ProcessResult;

/// Arguments: seconds of patience. Every rank meets every other in the store that rank 0 serves, and prints who it is.
LOCKSTEP_WORKER(meets_the_others) {
  const RankEnvironment self = read_rank_environment();
  const Deadline deadline = Deadline::after(std::chrono::seconds(std::stoi(arguments.at(0))));
  std::unique_ptr<TcpStoreServer> server;
  if (self.rank == 0) {
    server = std::make_unique<TcpStoreServer>(
        TcpStoreServerOptions{.address = self.master_address, .port = self.master_port, .token = self.job_token});
  }
  const auto store = connect_tcp_store(self.master_address, self.master_port, self.job_token, deadline);
  store->set("rank" + std::to_string(self.rank), "here");
  for (int rank = 0; rank < self.world_size; ++rank) store->get("rank" + std::to_string(rank), deadline);
  try {
    store->set("done" + std::to_string(self.rank), "");
    for (int rank = 0; server && rank < self.world_size; ++rank) store->get("done" + std::to_string(rank), deadline);
  } catch (const PeerError&) {
    // Rank 0 has all it waits for, this one's word as well, and took the store with it.
  }
  std::cout << self.rank << '/' << self.world_size << ' ' << self.local_rank << '/' << self.local_world_size << ' '
            << self.node_rank << ' ' << self.source << std::endl;
  return 0;
}

TEST(NetWorkerTest, RanksMeetAcrossHosts) {
  LOCKSTEP_NEEDS_HOSTS();
  const Hosts hosts(3);
  const ProcessResult result = run_on_hosts(hosts, {2, 1, 2}, "meets_the_others", {"30"});
  ASSERT_TRUE(result.ok()) << result;
  const std::vector<std::string> expected = {"0/5 0/2 0 torchrun\n", "1/5 1/2 0 torchrun\n", "2/5 0/1 1 torchrun\n",
                                             "3/5 0/2 2 torchrun\n", "4/5 1/2 2 torchrun\n"};
  ASSERT_EQ(result.ranks.size(), expected.size());
  for (std::size_t rank = 0; rank < expected.size(); ++rank) EXPECT_EQ(result.ranks[rank].out, expected[rank]);
}

TEST(NetWorkerTest, AHostThatIsCutOffIsMissed) {
  LOCKSTEP_NEEDS_HOSTS();
  Hosts hosts(2);
  hosts.cut(1);
  const ProcessResult result = run_on_hosts(hosts, {1, 1}, "meets_the_others", {"5"});
  EXPECT_EQ(result.ranks[0].exit_code, support::kThrew) << result;
  EXPECT_THAT(result.ranks[0].err, testing::HasSubstr("rank1")) << result;
  EXPECT_EQ(result.ranks[1].exit_code, support::kThrew) << result;
  EXPECT_THAT(result.ranks[1].err, testing::HasSubstr("TimeoutError: connect to 10.77.0.1:29500")) << result;
}

}  // namespace
}  // namespace lockstep::net
