// Programs of ours under the launchers that people have: Open MPI's, MPICH's, torchrun, and nothing but variables.

#include <iostream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/comm/init.h"
#include "tests/mp/exact_sum.h"
#include "tests/support/free_port.h"

namespace lockstep::mp {
namespace {

using support::ProcessResult;
using testing::HasSubstr;

LOCKSTEP_WORKER(exact_sum) {
  const Job job =
      init_from_environment({.timeout = std::chrono::seconds(60), .init_timeout = std::chrono::seconds(60)});
  const RankEnvironment& who = job.environment;
  constexpr int kCount = 1009;
  std::vector<float> data(kCount);
  for (int i = 0; i < kCount; ++i) data[static_cast<std::size_t>(i)] = static_cast<float>(i % 7 + who.rank);
  job.communicator->all_reduce(data.data(), data.data(), data.size(), DType::kFloat32);
  const int ranks_sum = who.world_size * (who.world_size - 1) / 2;
  for (int i = 0; i < kCount; ++i) {
    if (data[static_cast<std::size_t>(i)] != static_cast<float>(i % 7 * who.world_size + ranks_sum)) return 1;
  }
  // One write, so that no launcher mixes the lines of two ranks.
  const std::string line = who.source + " rank " + std::to_string(who.rank) + "/" + std::to_string(who.world_size) +
                           " local " + std::to_string(who.local_rank) + "/" + std::to_string(who.local_world_size) +
                           " node " + std::to_string(who.node_rank) + "\n";
  return ::write(STDOUT_FILENO, line.data(), line.size()) == static_cast<ssize_t>(line.size()) ? 0 : 1;
}

ProcessOptions with_port(int port) {
  ProcessOptions options;
  options.environment = {{"MASTER_PORT", std::to_string(port)},
                         {"LOCKSTEP_JOB_TOKEN", "secret"},
                         {"OMPI_ALLOW_RUN_AS_ROOT", "1"},
                         {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"}};
  return options;
}

TEST(OtherLaunchers, OpenMpi) {
  const std::string mpirun = find_installed("mpirun.openmpi");
  if (mpirun.empty()) GTEST_SKIP() << "mpirun.openmpi is not installed (Debian: openmpi-bin)";
  const ProcessEnd end = support::run_program(joined({{mpirun, "--oversubscribe", "-np", "3"}, exact_sum_command()}),
                                              with_port(support::free_port()));
  EXPECT_TRUE(end.ok()) << end.err;
  EXPECT_EQ(lines_of(end.out), lines_on_one_host("openmpi", 3));
}

TEST(OtherLaunchers, Mpich) {
  const std::string mpiexec = find_installed("mpiexec.mpich");
  if (mpiexec.empty()) GTEST_SKIP() << "mpiexec.mpich is not installed (Debian: mpich)";
  const ProcessEnd end =
      support::run_program(joined({{mpiexec, "-n", "3"}, exact_sum_command()}), with_port(support::free_port()));
  EXPECT_TRUE(end.ok()) << end.err;
  EXPECT_EQ(lines_of(end.out), lines_on_one_host("mpich", 3));
}

TEST(OtherLaunchers, Torchrun) {
  // Debian's, whatever other Python comes first on PATH.
  const Arguments torchrun = {"/usr/bin/python3", "-m", "torch.distributed.run"};
  if (!support::run_program({torchrun[0], "-c", "import torch.distributed.run"}).ok()) {
    GTEST_SKIP() << "torchrun is not installed (Debian: python3-torch)";
  }
  const int port = support::free_port();
  // Of torch 1.13 with Python 3.11, it fails unless a stream is redirected and shown (0 is lost from its enumeration).
  const Arguments flags = {"--no_python",
                           "--nnodes",
                           "1",
                           "--nproc_per_node",
                           "3",
                           "--master_addr",
                           "127.0.0.1",
                           "--master_port",
                           std::to_string(port),
                           "--redirects",
                           "1",
                           "--tee",
                           "1"};
  // Its agent serves torch's store at this port, so ours takes the next.
  const ProcessEnd end = support::run_program(joined({torchrun, flags, exact_sum_command()}), with_port(port));
  EXPECT_TRUE(end.ok()) << end.err;
  std::set<std::string> lines;
  for (const std::string& line : lines_of(end.out)) lines.insert(line.substr(line.find(':') + 1));  // "[default0]:"
  EXPECT_EQ(lines, lines_on_one_host("torchrun", 3));
}

TEST(OtherLaunchers, NothingButVariables) {
  const ProcessResult result = run_plain({"", "", ""});
  EXPECT_TRUE(result.ok()) << result;
  std::set<std::string> lines;
  for (const ProcessEnd& end : result.ranks) lines.merge(lines_of(end.out));
  EXPECT_EQ(lines, lines_on_one_host("torchrun", 3));
}

TEST(OtherLaunchers, NothingButVariablesAndARankThatNeverComes) {
  const int port = support::free_port();
  std::vector<Arguments> commands;
  for (const int rank : {0, 2}) {
    commands.push_back(joined({{"/usr/bin/env", "LOCKSTEP_INIT_TIMEOUT=5"}, plain_rank(rank, 4, port, "")}));
  }
  const ProcessResult result = support::run_programs(commands);
  EXPECT_EQ(result.ranks[0].exit_code, support::kThrew) << result;
  EXPECT_THAT(result.ranks[0].err,
              HasSubstr("TimeoutError: rank 0/4 group world: waited 5 s for rank(s) 1, 3 to arrive"))
      << result;
  EXPECT_NE(result.ranks[1].exit_code, 0) << result;
}

TEST(OtherLaunchers, AStoreThatNobodyCouldServeIsNamed) {
  for (const std::string store : {"node0", "node0:0", "node0:port", ":80", "fd00::1", "[fd00::1]", "fd00::1:80"}) {
    const ProcessEnd end = support::run_program(
        joined({{"/usr/bin/env", "RANK=0", "WORLD_SIZE=2", "LOCKSTEP_STORE=" + store}, exact_sum_command()}));
    EXPECT_EQ(end.exit_code, support::kThrew) << store;
    EXPECT_THAT(end.err, HasSubstr("UsageError: LOCKSTEP_STORE is '" + store + "'; expected host:port"));
  }
}

}  // namespace
}  // namespace lockstep::mp
