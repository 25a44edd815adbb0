// `lockstep run` on one host: what workers are told, what becomes of their output, and how they are ended.

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/io/file.h"
#include "lockstep/core/io/socket.h"
#include "tests/mp/exact_sum.h"
#include "tests/mp/lockstep_program.h"

namespace lockstep::mp {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

constexpr const char* kWait = "echo READY $$; exec sleep 1000";

/// What programs that are started now do at a SIGHUP: SIG_IGN is what nohup gives them.
class HangUps {
 public:
  explicit HangUps(sighandler_t action) : before_(::signal(SIGHUP, action)) {}
  ~HangUps() { ::signal(SIGHUP, before_); }
  HangUps(const HangUps&) = delete;
  HangUps& operator=(const HangUps&) = delete;

 private:
  sighandler_t before_;
};

TEST(Launcher, TellsThreeWorkersWhoTheyAre) {
  const ProcessEnd end =
      run_script({"--nproc-per-node", "3", "--role", "trainer", "--rdzv-id", "job7"},
                 "echo $RANK/$WORLD_SIZE $LOCAL_RANK/$LOCAL_WORLD_SIZE $GROUP_RANK/$GROUP_WORLD_SIZE "
                 "$ROLE_NAME $ROLE_RANK/$ROLE_WORLD_SIZE $MASTER_ADDR $TORCHELASTIC_RESTART_COUNT "
                 "$TORCHELASTIC_MAX_RESTARTS $TORCHELASTIC_RUN_ID");
  EXPECT_EQ(end.exit_code, 0) << end.err;
  EXPECT_EQ(lines_of(end.out), (std::set<std::string>{
                                   "[0] 0/3 0/3 0/1 trainer 0/3 127.0.0.1 0 0 job7",
                                   "[1] 1/3 1/3 0/1 trainer 1/3 127.0.0.1 0 0 job7",
                                   "[2] 2/3 2/3 0/1 trainer 2/3 127.0.0.1 0 0 job7",
                               }));
  EXPECT_THAT(end.err, AllOf(StartsWith("lockstep run: 3 workers on "), HasSubstr(", store 127.0.0.1:"),
                             HasSubstr(", job job7\n")));
}

TEST(Launcher, TheWorkersShareOneStoreAndOneSecret) {
  const ProcessEnd end = run_script({"--nproc-per-node", "2", "--no-prefix", "--quiet"},
                                    "echo $LOCKSTEP_STORE $LOCKSTEP_JOB_TOKEN $MASTER_PORT");
  EXPECT_EQ(end.err, "");
  ASSERT_EQ(lines_of(end.out).size(), 1u) << end.out;
  std::istringstream in(end.out);
  std::string store, token, port;
  in >> store >> token >> port;
  EXPECT_THAT(store, StartsWith("127.0.0.1:"));
  EXPECT_EQ(token.size(), 32u);
  EXPECT_NE(store, "127.0.0.1:" + port) << "rank 0 could not listen there";
}

TEST(Launcher, OmpNumThreadsOfTheUserStays) {
  ProcessOptions options;
  options.environment = {{"OMP_NUM_THREADS", "17"}};
  EXPECT_EQ(run_script({"--nproc-per-node", "2", "--no-prefix"}, "echo $OMP_NUM_THREADS", options).out, "17\n17\n");
}

TEST(Launcher, FlagsMayComeFromTorchrunsEnvironment) {
  ProcessOptions options;
  options.environment = {{"PET_NPROC_PER_NODE", "3"}, {"PET_RDZV_ID", "mine"}, {"PET_QUIET", "1"}};
  EXPECT_EQ(lines_of(run_script({}, "echo $WORLD_SIZE $TORCHELASTIC_RUN_ID", options).out),
            (std::set<std::string>{"[0] 3 mine", "[1] 3 mine", "[2] 3 mine"}));
  EXPECT_EQ(run_script({"--nproc_per_node=1"}, "echo $WORLD_SIZE", options).out, "1\n")
      << "the command line counts more";
}

TEST(Launcher, ASwitchMaySayThatItIsOff) {
  const std::set<std::string> both = {"[0] started", "[1] started"};
  for (const char* off : {"0", "false", "False", "no", "off"}) {
    ProcessOptions options;
    for (const char* name : {"PET_STANDALONE", "PET_NO_PREFIX", "PET_QUIET", "PET_DRY_RUN", "PET_JSON"}) {
      options.environment.emplace_back(name, off);
    }
    const ProcessEnd end = run_script({"--nproc-per-node", "2", "--master-addr", "127.0.0.1"}, "echo started", options);
    EXPECT_EQ(end.exit_code, 0) << off << ": " << end.err;
    EXPECT_EQ(lines_of(end.out), both) << off;
    EXPECT_THAT(end.err, StartsWith("lockstep run: 2 workers on ")) << off;
  }
  const ProcessEnd end = run_script({"--nproc-per-node", "2", "--master-addr", "127.0.0.1", "--standalone=false",
                                     "--no-prefix=0", "--quiet=no", "--dry-run=false", "--json=false"},
                                    "echo started");
  EXPECT_EQ(end.exit_code, 0) << end.err;
  EXPECT_EQ(lines_of(end.out), both);
  EXPECT_THAT(end.err, StartsWith("lockstep run: 2 workers on "));
}

TEST(Launcher, ASwitchMaySayThatItIsOn) {
  for (const char* on : {"1", "true", "True", "yes", "on"}) {
    ProcessOptions options;
    options.environment = {{"PET_NO_PREFIX", on}, {"PET_QUIET", on}};
    const ProcessEnd quiet = run_script({"--nproc-per-node", "2"}, "echo started", options);
    EXPECT_EQ(quiet.out, "started\nstarted\n") << on;
    EXPECT_EQ(quiet.err, "") << on;
    options.environment = {{"PET_DRY_RUN", on}};
    const ProcessEnd dry = run_script({std::string("--json=") + on}, "echo started", options);
    EXPECT_EQ(dry.exit_code, 0) << dry.err;
    EXPECT_THAT(dry.out, StartsWith("{\"problems\":[]")) << on;
  }
  ProcessOptions options;
  options.environment = {{"PET_QUIET", "1"}};
  EXPECT_THAT(run_script({"--quiet=false"}, "echo started", options).err, StartsWith("lockstep run: 1 worker on "))
      << "the command line counts more";
}

TEST(Launcher, OneWorkerPrintsWithoutAPrefixAndReadsTheInput) {
  const ProcessEnd end = run_script({"--quiet"}, "echo out; printf 'no line end'; echo err >&2");
  EXPECT_EQ(end.out, "out\nno line end\n");
  EXPECT_EQ(end.err, "err\n");
  const ProcessEnd input = support::run_program(
      {"/bin/sh", "-c", "echo hello | " LOCKSTEP_PROGRAM " run --quiet --nproc-per-node 2 -- sh -c 'echo got $(cat)'"});
  EXPECT_EQ(lines_of(input.out), (std::set<std::string>{"[0] got hello", "[1] got"}));
}

TEST(Launcher, ArgumentsReachTheProgramAsTheyAre) {
  const ProcessEnd end = support::run_program({LOCKSTEP_PROGRAM, "run", "--quiet", "--no_python", "sh", "-c",
                                               "printf '<%s>' \"$@\"", "--", "--nnodes", "", "a b", "--", "-h"});
  EXPECT_EQ(end.exit_code, 0) << end.err;
  EXPECT_EQ(end.out, "<--nnodes><><a b><--><-h>\n");
}

TEST(Launcher, AFailureEndsTheOthersAndIsReportedWithItsLastLines) {
  ReadyPids ready;
  ProcessOptions options;
  options.on_line = [&](launch::Supervisor&, const launch::OutputLine& line) { ready.take(line.text); };
  const ProcessEnd end = run_script({"--nproc-per-node", "3", "--grace-period", "1000"},
                                    "echo READY $$; if [ $RANK = 1 ]; then echo one; echo two >&2; exit 3; fi; "
                                    "exec sleep 1000",
                                    options);
  EXPECT_EQ(end.exit_code, 3);
  EXPECT_THAT(end.err,
              AllOf(HasSubstr("lockstep run: worker rank 1 (local 1, pid "), HasSubstr(") exited with code 3 after "),
                    HasSubstr(" s; its last lines:\n"), HasSubstr("\n    one\n"), HasSubstr("\n    two\n")));
  EXPECT_THAT(end.err, Not(HasSubstr("worker rank 0"))) << "the others did not fail by themselves";
  EXPECT_FALSE(ready.any_alive());
}

TEST(Launcher, AWorkerThatDiesOfASignalIsNamedWithIt) {
  const ProcessEnd end =
      run_script({"--nproc-per-node", "2"}, "if [ $RANK = 1 ]; then kill -9 $$; fi; exec sleep 1000");
  EXPECT_EQ(end.exit_code, 137);
  EXPECT_THAT(end.err, HasSubstr(") died of signal 9 (SIGKILL) after "));
  EXPECT_THAT(end.err, HasSubstr("lockstep run: worker rank 1 (local 1, pid "));
}

TEST(Launcher, AllMustSucceed) {
  EXPECT_EQ(run_script({"--nproc-per-node", "2"}, "exit $RANK").exit_code, 1);
  EXPECT_EQ(run_script({"--nproc-per-node", "2"}, "exit 0").exit_code, 0);
}

TEST(Launcher, CtrlCReachesEveryoneAndLeavesNothing) {
  const HangUps end_programs(SIG_DFL);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    ReadyPids ready;
    ProcessOptions options;
    options.on_line = [&](launch::Supervisor& launcher, const launch::OutputLine& line) {
      if (ready.take(line.text) && ready.size() == 3) launcher.signal(0, signal);
    };
    const ProcessEnd end = run_script({"--nproc-per-node", "3", "--grace-period", "1000"}, kWait, options);
    EXPECT_EQ(end.exit_code, 128 + signal) << end.err;
    EXPECT_FALSE(ready.any_alive());
  }
}

TEST(Launcher, AHangUpThatNohupIgnoresEndsNothing) {
  const HangUps are_ignored(SIG_IGN);
  ProcessOptions options;
  options.on_line = [](launch::Supervisor& launcher, const launch::OutputLine& line) {
    if (line.text.starts_with("READY")) launcher.signal(0, SIGHUP);
  };
  const ProcessEnd end = run_script({"--quiet"}, "echo READY; sleep 0.3; echo done", options);
  EXPECT_EQ(end.exit_code, 0) << end.err;
  EXPECT_EQ(end.out, "READY\ndone\n");
}

TEST(Launcher, OutputWaitsForASlowReader) {
  const ProcessEnd end = support::run_program(
      {"/bin/sh", "-c",
       LOCKSTEP_PROGRAM " run --quiet --no-prefix --nproc-per-node 2 -- sh -c 'yes | head -c 200000' | "
                        "(sleep 6; wc -c)"});
  EXPECT_EQ(end.out, "400000\n") << end.err;
}

TEST(Launcher, NeedsMoreFilesThanItsWorkersMayOpen) {
  const ProcessEnd end = support::run_program({"/bin/sh", "-c",
                                               "ulimit -S -n 40; exec " LOCKSTEP_PROGRAM
                                               " run --quiet --no-prefix --nproc-per-node 20 -- sh -c 'ulimit -S -n'"});
  EXPECT_EQ(end.exit_code, 0) << end.err;
  EXPECT_EQ(lines_of(end.out), std::set<std::string>{"40"});
}

TEST(Launcher, AWorkerThatIgnoresTheRequestIsKilledAfterTheGrace) {
  ReadyPids ready;
  ProcessOptions options;
  options.on_line = [&](launch::Supervisor& launcher, const launch::OutputLine& line) {
    if (ready.take(line.text) && ready.size() == 2) launcher.signal(0, SIGTERM);
  };
  const ProcessEnd end =
      run_script({"--nproc-per-node", "2", "--grace-period", "3"},
                 "if [ $RANK = 1 ]; then trap '' TERM; fi; echo READY $$; while :; do sleep 0.05; done", options);
  EXPECT_EQ(end.exit_code, 143);
  EXPECT_THAT(end.err, HasSubstr("still running 3 s after being told to end, killed: rank 1\n"));
  EXPECT_FALSE(ready.any_alive());
}

TEST(Launcher, ASecondCtrlCKillsAtOnce) {
  ReadyPids ready;
  ProcessOptions options;
  options.on_line = [&](launch::Supervisor& launcher, const launch::OutputLine& line) {
    if (ready.take(line.text)) launcher.signal(0, SIGINT);
    if (line.text == "lockstep run: SIGINT: ending the workers") launcher.signal(0, SIGINT);
  };
  const ProcessEnd end =
      run_script({"--grace-period", "1000"}, "trap '' INT; echo READY $$; while :; do sleep 0.05; done", options);
  EXPECT_EQ(end.exit_code, 130);
  EXPECT_FALSE(ready.any_alive());
}

TEST(Launcher, WorkersDieWithALauncherThatIsKilled) {
  const Subreaper subreaper;
  ReadyPids ready;
  ProcessOptions options;
  options.on_line = [&](launch::Supervisor& launcher, const launch::OutputLine& line) {
    if (ready.take(line.text) && ready.size() == 2) launcher.signal(0, SIGKILL);
  };
  EXPECT_EQ(run_script({"--nproc-per-node", "2"}, kWait, options).signal, SIGKILL);
  ASSERT_EQ(ready.size(), 2u);
  for (const pid_t pid : ready.pids()) EXPECT_EQ(Subreaper::signal_of(pid), SIGKILL);
}

TEST(Launcher, WhatAWorkerLeavesRunningEndsWithIt) {
  const Subreaper subreaper;
  ReadyPids ready;
  ProcessOptions options;
  options.on_line = [&](launch::Supervisor&, const launch::OutputLine& line) { ready.take(line.text); };
  EXPECT_EQ(run_script({}, "sleep 1000 & echo READY $!", options).exit_code, 0);
  ASSERT_EQ(ready.size(), 1u);
  EXPECT_EQ(Subreaper::signal_of(*ready.pids().begin()), SIGKILL);
}

TEST(Launcher, WritesLogFilesAsTorchrunDoes) {
  const io::TempDirectory directory;
  const auto log = [&](const std::string& name) { return io::read_file(directory.path() + "/job/attempt_0/" + name); };
  const auto run = [&](const Arguments& choice) {
    Arguments flags = {"--nproc-per-node", "2", "--quiet", "--rdzv-id", "job", "--log-dir", directory.path()};
    flags.insert(flags.end(), choice.begin(), choice.end());
    return run_script(flags, "echo out $RANK; echo err $RANK >&2");
  };
  const ProcessEnd plain = run({});
  EXPECT_EQ(lines_of(plain.out), (std::set<std::string>{"[0] out 0", "[1] out 1"}));
  EXPECT_EQ(log("0/stdout.log") + log("0/stderr.log") + log("1/stdout.log"), "out 0\nerr 0\nout 1\n");

  io::remove_tree(directory.path() + "/job");
  const ProcessEnd redirected = run({"--redirects", "0:1,1:3"});
  EXPECT_EQ(redirected.out, "");
  EXPECT_EQ(redirected.err, "[0] err 0\n");
  EXPECT_EQ(log("0/stdout.log") + log("1/stdout.log") + log("1/stderr.log"), "out 0\nout 1\nerr 1\n");
  EXPECT_FALSE(std::filesystem::exists(directory.path() + "/job/attempt_0/0/stderr.log"));

  io::remove_tree(directory.path() + "/job");
  const ProcessEnd teed = run({"-r", "3", "-t", "1:1"});
  EXPECT_EQ(teed.out, "[1] out 1\n");
  EXPECT_EQ(teed.err, "");
  EXPECT_EQ(log("1/stdout.log"), "out 1\n");
}

TEST(Launcher, ShowsOnlyTheRanksThatAreAskedFor) {
  const ProcessEnd end =
      run_script({"--nproc-per-node", "3", "--quiet", "--local-ranks-filter", "2"}, "echo out $RANK");
  EXPECT_EQ(end.out, "out 2\n");
}

TEST(Launcher, LinesOfSeveralWorkersStayWhole) {
  const ProcessEnd end = run_script({"--nproc-per-node", "4", "--quiet"},
                                    "i=0; while [ $i -lt 500 ]; do echo line $i of $RANK; i=$((i+1)); done");
  std::map<char, int> next;
  std::istringstream in(end.out);
  for (std::string line; std::getline(in, line);) {
    ASSERT_GE(line.size(), 4u);
    const char rank = line[1];
    EXPECT_EQ(line, std::string("[") + rank + "] line " + std::to_string(next[rank]++) + " of " + rank);
  }
  for (const char rank : {'0', '1', '2', '3'}) EXPECT_EQ(next[rank], 500);
}

TEST(Launcher, RestartsAllWorkersAfterAFailure) {
  const io::TempDirectory directory;
  const ProcessEnd end =
      run_script({"--nproc-per-node", "2", "--max-restarts", "3", "--rdzv-id", "job", "--log-dir", directory.path()},
                 "echo try $TORCHELASTIC_RESTART_COUNT of $TORCHELASTIC_MAX_RESTARTS; "
                 "if [ $TORCHELASTIC_RESTART_COUNT = 2 ]; then exit 0; fi; "
                 "if [ $RANK = 1 ]; then exit 7; fi; exec sleep 1000");
  EXPECT_EQ(end.exit_code, 0) << end.err;
  EXPECT_THAT(end.err,
              AllOf(HasSubstr("restart 1 of 3"), HasSubstr("restart 2 of 3"), Not(HasSubstr("restart 3 of 3"))));
  EXPECT_EQ(io::read_file(directory.path() + "/job/attempt_2/1/stdout.log"), "try 2 of 3\n");
}

TEST(Launcher, GivesUpWhenTheRestartsAreUsed) {
  const ProcessEnd end = run_script({"--max-restarts", "2"}, "exit $((TORCHELASTIC_RESTART_COUNT + 4))");
  EXPECT_EQ(end.exit_code, 6);
}

TEST(Launcher, TheStoreMayHaveAnIPv6Address) {
  if (!has_ipv6_loopback()) GTEST_SKIP() << "this machine has no address ::1";
  const Arguments launcher = {LOCKSTEP_PROGRAM, "run", "--quiet", "--no-prefix", "--nproc-per-node", "2"};
  for (const char* endpoint : {"[::1]:0", "[::]:0"}) {
    const ProcessEnd end =
        support::run_program(joined({launcher, {"--rdzv-endpoint", endpoint, "--"}, exact_sum_command()}));
    EXPECT_TRUE(end.ok()) << endpoint << ": " << end.err;
    EXPECT_EQ(lines_of(end.out), lines_on_one_host("lockstep", 2)) << endpoint;
  }
}

TEST(Launcher, APortInUseIsNamed) {
  const io::Listener taken("127.0.0.1", 0);
  const std::string port = std::to_string(taken.port());
  for (const Arguments& flags : {Arguments{"--rdzv-endpoint", "127.0.0.1:" + port}, {"--master-port", port}}) {
    const ProcessEnd end = run_script(flags, "echo started");
    EXPECT_EQ(end.exit_code, 1);
    EXPECT_EQ(end.out, "");
    EXPECT_THAT(end.err, HasSubstr(port));
    EXPECT_EQ(lines_of(end.err).size(), 1u) << end.err;
  }
}

}  // namespace
}  // namespace lockstep::mp
