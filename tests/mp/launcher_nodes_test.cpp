// `lockstep run` on two hosts, which are two launchers on the loopback interface here.

#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/io/file.h"
#include "tests/mp/exact_sum.h"
#include "tests/mp/lockstep_program.h"
#include "tests/support/free_port.h"

namespace lockstep::mp {
namespace {

using support::ProcessResult;
using testing::AllOf;
using testing::HasSubstr;

/// Flags of two nodes that meet at a port of their own.
std::vector<Arguments> two_nodes(const Arguments& more = {}) {
  const std::string port = std::to_string(support::free_port());
  std::vector<Arguments> nodes;
  for (const char* node_rank : {"0", "1"}) {
    Arguments flags = {"--nnodes", "2", "--node-rank", node_rank, "--master-addr", "127.0.0.1", "--master-port", port};
    flags.insert(flags.end(), more.begin(), more.end());
    nodes.push_back(flags);
  }
  return nodes;
}

ProcessResult run_nodes(const std::vector<Arguments>& flags, const std::string& script, ProcessOptions options = {}) {
  std::vector<Arguments> commands;
  for (const Arguments& node : flags) commands.push_back(launch_script(node, script));
  options.environment.emplace_back("LOCKSTEP_JOB_TOKEN", "secret");
  return support::run_programs(commands, options);
}

TEST(TwoNodes, CountTheirRanksThrough) {
  auto flags = two_nodes({"--quiet"});
  flags[1].insert(flags[1].end(), {"--nproc-per-node", "2"});
  const ProcessResult result = run_nodes(
      flags, "echo $RANK/$WORLD_SIZE $LOCAL_RANK/$LOCAL_WORLD_SIZE $GROUP_RANK/$GROUP_WORLD_SIZE $MASTER_ADDR");
  EXPECT_TRUE(result.ok()) << result;
  EXPECT_EQ(result.ranks[0].out, "[0] 0/3 0/1 0/2 127.0.0.1\n");
  EXPECT_EQ(lines_of(result.ranks[1].out),
            (std::set<std::string>{"[1] 1/3 0/2 1/2 127.0.0.1", "[2] 2/3 1/2 1/2 127.0.0.1"}));
}

TEST(TwoNodes, ShareOneStoreAndOneMasterPort) {
  const ProcessResult result = run_nodes(two_nodes({"--quiet", "--no-prefix"}), "echo $LOCKSTEP_STORE $MASTER_PORT");
  EXPECT_TRUE(result.ok()) << result;
  EXPECT_NE(result.ranks[0].out, "");
  EXPECT_EQ(result.ranks[0].out, result.ranks[1].out);  // without prefixes
}

TEST(TwoNodes, MeetAtAnIPv6Address) {
  if (!has_ipv6_loopback()) GTEST_SKIP() << "this machine has no address ::1";
  const std::string port = std::to_string(support::free_port());
  std::vector<Arguments> commands;
  for (const char* node_rank : {"0", "1"}) {
    commands.push_back(joined({{LOCKSTEP_PROGRAM, "run", "--quiet", "--no-prefix", "--nnodes", "2", "--node-rank",
                                node_rank, "--master-addr", "::1", "--master-port", port, "--"},
                               exact_sum_command()}));
  }
  ProcessOptions options;
  options.environment = {{"LOCKSTEP_JOB_TOKEN", "secret"}};
  const ProcessResult result = support::run_programs(commands, options);
  EXPECT_TRUE(result.ok()) << result;
  EXPECT_EQ(result.ranks[0].out, "lockstep rank 0/2 local 0/1 node 0\n");
  EXPECT_EQ(result.ranks[1].out, "lockstep rank 1/2 local 0/1 node 1\n");
}

TEST(TwoNodes, KeepTheirLogsApart) {
  const io::TempDirectory directory("nodes");
  const ProcessResult result =
      run_nodes(two_nodes({"--quiet", "--rdzv-id", "job", "--log-dir", directory.path()}), "echo out $RANK");
  EXPECT_TRUE(result.ok()) << result;
  for (const std::string node : {"0", "1"}) {
    EXPECT_EQ(io::read_file(directory.path() + "/job/node_" + node + "/attempt_0/0/stdout.log"), "out " + node + "\n");
  }
}

TEST(TwoNodes, AFailureOnOneEndsTheOther) {
  for (const char* culprit : {"0", "1"}) {
    const std::string script = std::string("if [ $GROUP_RANK = ") + culprit + " ]; then exit 5; fi; exec sleep 1000";
    const ProcessResult result = run_nodes(two_nodes(), script);
    for (const ProcessEnd& node : result.ranks) {
      EXPECT_EQ(node.exit_code, 5) << result;
      EXPECT_THAT(node.err, AllOf(HasSubstr("worker rank " + std::string(culprit)), HasSubstr("exited with code 5")));
    }
  }
}

TEST(TwoNodes, AFailureElsewhereLeavesTimeToSayWhatWasMissed) {
  const io::TempDirectory directory("nodes");
  ProcessOptions options;
  options.environment.emplace_back("TOLD", directory.path() + "/told");
  // Both are processes of this machine, so that its clock counts for both. Told: once TERM can be taken.
  const ProcessResult result =
      run_nodes(two_nodes({"--quiet", "--no-prefix"}),
                "if [ $GROUP_RANK = 0 ]; then while [ ! -e $TOLD ]; do sleep 0.02; done; date +%s%N; exit 5; fi; "
                "trap 'date +%s%N; exit 0' TERM; touch $TOLD; while :; do sleep 0.02; done",
                options);
  ASSERT_EQ(result.ranks[0].exit_code, 5) << result;
  ASSERT_EQ(result.ranks[1].exit_code, 5) << result;
  EXPECT_GE(std::stoll(result.ranks[1].out) - std::stoll(result.ranks[0].out), 300'000'000) << result;
}

TEST(TwoNodes, ANodeThatIsDoneHearsWhyTheJobFailed) {
  const io::TempDirectory directory("nodes");
  ProcessOptions options;
  options.environment.emplace_back("DONE", directory.path() + "/done");
  const ProcessResult result = run_nodes(two_nodes(),
                                         "if [ $GROUP_RANK = 1 ]; then touch $DONE; exit 0; fi; "
                                         "while [ ! -e $DONE ]; do sleep 0.05; done; sleep 0.5; exit 5",
                                         options);
  EXPECT_EQ(result.ranks[0].exit_code, 5) << result;
  EXPECT_EQ(result.ranks[1].exit_code, 5) << result;
  EXPECT_THAT(result.ranks[1].err, HasSubstr("on node 0 worker rank 0"));
}

TEST(TwoNodes, ANodeThatIsDoneWaitsForTheOther) {
  // Node 1 ends at once and node 0 fails later: the restart needs both.
  const io::TempDirectory directory("nodes");
  ProcessOptions options;
  options.environment.emplace_back("DONE", directory.path() + "/done");
  const ProcessResult result =
      run_nodes(two_nodes({"--max-restarts", "1"}),
                "echo try $TORCHELASTIC_RESTART_COUNT; if [ $GROUP_RANK = 1 ]; then touch $DONE; exit 0; fi; "
                "while [ ! -e $DONE ]; do sleep 0.05; done; sleep 0.5; exit $((1 - TORCHELASTIC_RESTART_COUNT))",
                options);
  EXPECT_TRUE(result.ok()) << result;
  EXPECT_EQ(result.ranks[0].out, "[0] try 0\n[0] try 1\n");
  EXPECT_EQ(result.ranks[1].out, "[1] try 0\n[1] try 1\n");
}

TEST(TwoNodes, CtrlCOnOneEndsTheOther) {
  int ready = 0;
  ProcessOptions options;
  options.on_line = [&](launch::Supervisor& nodes, const launch::OutputLine& line) {
    if (line.text.ends_with("READY") && ++ready == 2) nodes.signal(1, SIGINT);
  };
  const ProcessResult result = run_nodes(two_nodes({"--max-restarts", "3"}), "echo READY; exec sleep 1000", options);
  EXPECT_EQ(result.ranks[1].exit_code, 130) << result;
  EXPECT_EQ(result.ranks[0].exit_code, 130) << result;
  EXPECT_THAT(result.ranks[0].err, HasSubstr("node 1 got SIGINT"));
}

TEST(TwoNodes, ALauncherThatIsKilledEndsTheOther) {
  int ready = 0;
  ProcessOptions options;
  options.on_line = [&](launch::Supervisor& nodes, const launch::OutputLine& line) {
    if (line.text.ends_with("READY") && ++ready == 2) nodes.signal(0, SIGKILL);
  };
  const ProcessResult result = run_nodes(two_nodes(), "echo READY; exec sleep 1000", options);
  EXPECT_EQ(result.ranks[0].signal, SIGKILL);
  EXPECT_EQ(result.ranks[1].exit_code, 1) << result;
}

TEST(TwoNodes, OneThatNeverArrivesIsNamed) {
  const auto flags = two_nodes();
  ProcessOptions options;
  options.environment = {{"LOCKSTEP_INIT_TIMEOUT", "0.3"}};
  const ProcessResult first = run_nodes({flags[0]}, "echo started", options);
  EXPECT_EQ(first.ranks[0].exit_code, 1);
  EXPECT_THAT(first.ranks[0].err, HasSubstr("node 0 of 2: waited 0.3 s for node 1"));
  const ProcessResult second = run_nodes({flags[1]}, "echo started", options);
  EXPECT_EQ(second.ranks[0].exit_code, 1);
  EXPECT_THAT(second.ranks[0].err, HasSubstr("no answer from node 0 at 127.0.0.1:"));
  EXPECT_EQ(first.ranks[0].out + second.ranks[0].out, "");
}

TEST(TwoNodes, ASignalEndsTheWaitForTheOthers) {
  ProcessOptions options;
  options.on_line = [](launch::Supervisor& nodes, const launch::OutputLine& line) {
    if (line.text.find("LOCKSTEP_JOB_TOKEN is not set") != std::string::npos) nodes.signal(0, SIGTERM);
  };
  for (const Arguments& flags : two_nodes()) {
    const ProcessEnd end = run_script(flags, "echo started", options);
    EXPECT_EQ(end.exit_code, 143) << end.err;
    EXPECT_EQ(end.out, "");
  }
}

TEST(TwoNodes, CtrlZHoldsTheWaitForTheOthers) {
  ProcessOptions options;
  options.environment = {{"LOCKSTEP_INIT_TIMEOUT", "1"}};
  options.on_line = [](launch::Supervisor& nodes, const launch::OutputLine& line) {
    if (line.text.find("LOCKSTEP_JOB_TOKEN is not set") == std::string::npos) return;
    nodes.signal(0, SIGTSTP);
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    nodes.signal(0, SIGCONT);
  };
  for (const Arguments& flags : two_nodes()) {
    const ProcessEnd end = run_script(flags, "echo started", options);
    EXPECT_EQ(end.exit_code, 1) << end.err;
    EXPECT_THAT(end.err, HasSubstr("node "));
  }
}

TEST(TwoNodes, FlagsMustAgree) {
  auto flags = two_nodes();
  flags[1].insert(flags[1].end(), {"--max-restarts", "1"});
  const ProcessResult result = run_nodes(flags, "echo started");
  for (const ProcessEnd& node : result.ranks) {
    EXPECT_EQ(node.exit_code, 1) << result;
    EXPECT_THAT(node.err, AllOf(HasSubstr("--max-restarts 0"), HasSubstr("--max-restarts 1")));
    EXPECT_EQ(node.out, "");
  }
}

TEST(TwoNodes, AnotherSecretIsNotLetIn) {
  const auto flags = two_nodes();
  std::vector<Arguments> commands = {launch_script(flags[0], "echo started"), launch_script(flags[1], "echo started")};
  commands[0].insert(commands[0].begin(), {"/usr/bin/env", "LOCKSTEP_JOB_TOKEN=one"});
  commands[1].insert(commands[1].begin(), {"/usr/bin/env", "LOCKSTEP_JOB_TOKEN=two"});
  ProcessOptions options;
  options.environment = {{"LOCKSTEP_INIT_TIMEOUT", "3"}};
  const ProcessResult result = support::run_programs(commands, options);
  EXPECT_EQ(result.ranks[1].exit_code, 2) << result;
  EXPECT_EQ(result.ranks[0].exit_code, 1) << result;
  EXPECT_EQ(result.ranks[0].out + result.ranks[1].out, "");
}

}  // namespace
}  // namespace lockstep::mp
