#include "tests/net/net_worker.h"

namespace lockstep::net {

support::ProcessResult run_on_hosts(const support::Hosts& hosts, const std::vector<int>& ranks_per_host,
                                    const std::string& worker, const support::Arguments& arguments,
                                    const support::ProcessOptions& options) {
  std::vector<support::Arguments> commands;
  std::vector<launch::Variables> variables;
  for (const support::RankOnHost& rank : support::ranks_on(hosts, ranks_per_host, kMasterPort)) {
    commands.push_back(hosts.on(rank.host, support::worker_command(worker, arguments)));
    variables.push_back(rank.variables);
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
