#include "tests/net/net_worker.h"

#include <unistd.h>

#include <numeric>

#include "lockstep/core/base/check.h"

namespace lockstep::net {

support::ProcessResult run_on_hosts(const support::Hosts& hosts, const std::vector<int>& ranks_per_host,
                                    const std::string& worker, const support::Arguments& arguments,
                                    const support::ProcessOptions& options) {
  LS_CHECK(static_cast<int>(ranks_per_host.size()) <= hosts.size(), "ranks on more hosts than there are");
  const int world_size = std::accumulate(ranks_per_host.begin(), ranks_per_host.end(), 0);
  std::vector<support::Arguments> commands;
  std::vector<launch::Variables> variables;
  for (std::size_t host = 0; host < ranks_per_host.size(); ++host) {
    for (int local_rank = 0; local_rank < ranks_per_host[host]; ++local_rank) {
      const auto rank = commands.size();
      commands.push_back(hosts.on(static_cast<int>(host), support::worker_command(worker, arguments)));
      variables.push_back({{"RANK", std::to_string(rank)},
                           {"WORLD_SIZE", std::to_string(world_size)},
                           {"LOCAL_RANK", std::to_string(local_rank)},
                           {"LOCAL_WORLD_SIZE", std::to_string(ranks_per_host[host])},
                           {"GROUP_RANK", std::to_string(host)},
                           {"GROUP_WORLD_SIZE", std::to_string(ranks_per_host.size())},
                           {"MASTER_ADDR", hosts.address(0)},
                           {"MASTER_PORT", std::to_string(kMasterPort)},
                           {"LOCKSTEP_JOB_TOKEN", base::cat("net-test-", ::getpid())}});
    }
  }
  return support::run_programs(commands, variables, options);
}

support::ProcessResult run_one_each(const support::Hosts& hosts, std::vector<support::Arguments> commands,
                                    std::vector<launch::Variables> variables, const support::ProcessOptions& options) {
  for (std::size_t host = 0; host < commands.size(); ++host) {
    commands[host] = hosts.on(static_cast<int>(host), commands[host]);
  }
  variables.resize(commands.size());
  return support::run_programs(commands, variables, options);
}

}  // namespace lockstep::net
