// Training on several hosts loses what one process loses: over gloo, over shared memory and gloo, over MPI.

#include "tests/support/hosts.h"

#include <gmock/gmock.h>

#include "tests/e2e/training.h"

namespace lockstep::e2e {
namespace {

// As between the ranks of one host (equivalence_test.cpp): the sums of a batch are split in another order.
constexpr double kBound = 1e-5;

/// Trains on ranks_per_host[h] ranks of host h and returns the loss of each step.
std::vector<double> train_on_hosts(const support::Hosts& hosts, const std::vector<int>& ranks_per_host,
                                   const std::string& backend, const Arguments& more) {
  const io::TempDirectory directory("hosts");
  const std::string metrics = directory.path() + "/metrics.jsonl";
  const auto ranks = support::ranks_on(hosts, ranks_per_host, 29500);
  Arguments arguments = more;
  arguments.insert(arguments.end(), {"--metrics", metrics});
  std::vector<Arguments> commands;
  std::vector<launch::Variables> variables;
  for (const support::RankOnHost& rank : ranks) {
    // One worker a command: they come together by their environment.
    commands.push_back(hosts.on(rank.host, train_command("lenet", 1, 64 / static_cast<int>(ranks.size()), arguments)));
    variables.push_back(rank.variables);
    variables.back().push_back({"LOCKSTEP_BACKEND", backend});
    variables.back().push_back({"OMP_NUM_THREADS", "1"});
  }
  support::ProcessOptions options;
  options.deadline = std::chrono::seconds(120);
  const auto end = support::run_programs(commands, variables, options);
  EXPECT_TRUE(end.ok()) << end;
  return losses_in(metrics);
}

TEST(Hosts, ManyHostsLoseWhatOneProcessDoes) {
  if (const auto reason = support::Hosts::why_not()) GTEST_SKIP() << *reason;
  const io::TempDirectory directory("one");
  const Arguments epochs = {"--epochs", "2"};
  const auto one = train(directory, "lenet", 1, 64, epochs);
  ASSERT_EQ(one.size(), 46u);
  const support::Hosts hosts(3);
  struct Layout {
    std::vector<int> ranks_per_host;
    const char* backend;
  };
  for (const Layout& layout : {Layout{{1, 1}, "gloo"}, Layout{{2, 2}, "auto"}, Layout{{1, 2, 1}, "hier"}}) {
    const auto many = train_on_hosts(hosts, layout.ranks_per_host, layout.backend, epochs);
    EXPECT_EQ(many.size(), one.size());
    EXPECT_LT(largest_difference(one, many), kBound) << layout.ranks_per_host.size() << " hosts, " << layout.backend;
  }
}

}  // namespace
}  // namespace lockstep::e2e
