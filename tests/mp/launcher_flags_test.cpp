// What `lockstep` answers to a command line that is wrong: one line that names the culprit, exit code 2, nothing run.

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/mp/lockstep_program.h"

namespace lockstep::mp {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

struct Case {
  std::string name;
  Arguments arguments;  // after "lockstep"
  std::string text;
};

class BadCommandLine : public testing::TestWithParam<Case> {};

TEST_P(BadCommandLine, IsOneLineThatNamesIt) {
  Arguments argv = {LOCKSTEP_PROGRAM};
  argv.insert(argv.end(), GetParam().arguments.begin(), GetParam().arguments.end());
  const ProcessEnd end = support::run_program(argv);
  EXPECT_EQ(end.exit_code, 2);
  EXPECT_EQ(end.out, "");
  EXPECT_THAT(end.err, StartsWith("lockstep"));
  EXPECT_THAT(end.err, HasSubstr(GetParam().text));
  EXPECT_EQ(lines_of(end.err).size(), 1u) << end.err;
}

const Case kCases[] = {
    {"no_such_command", {"fly"}, "fly"},
    {"no_such_flag", {"--fly"}, "--fly"},
    {"no_such_topic", {"help", "fly"}, "fly"},
    {"two_topics", {"help", "bench", "doctor"}, "one topic"},
    {"bench_backend", {"bench", "--backend", "nope"}, "--backend: unknown backend 'nope'; expected auto, "},
    {"bench_backend_of_limits", {"bench", "limits", "--backend", "nope"}, "--backend: unknown backend 'nope'"},
    {"bench_backend_of_one", {"bench", "--nproc", "2", "--backend", "self"}, "a world of one, not 2"},
    {"explain_backend_of_one", {"bench", "--explain", "--nproc", "2", "--backend", "self"}, "a world of one, not 2"},
    {"doctor_of_nothing", {"doctor", "fly"}, "fly"},
    {"doctor_timeout", {"doctor", "--timeout", "0"}, "--timeout"},
    {"doctor_without_a_folder", {"doctor", "flight"}, "directory"},
    {"doctor_no_such_folder", {"doctor", "flight", "/no/such/folder"}, "/no/such/folder"},
    {"doctor_flag", {"doctor", "flight", "/", "--fly"}, "--fly"},
    {"run_flag", {"run", "--fly", "--", "echo", "x"}, "--fly"},
    {"run_short_flag", {"run", "-x", "--", "echo", "x"}, "-x"},
    {"no_program", {"run", "--nproc-per-node", "2"}, "no program"},
    {"no_program_after_the_dashes", {"run", "--"}, "no program"},
    {"program_not_found", {"run", "--", "no-such-program"}, "'no-such-program'"},
    {"program_not_executable", {"run", "--", "/etc/passwd"}, "/etc/passwd"},
    {"no_value", {"run", "--nproc-per-node"}, "--nproc-per-node"},
    {"not_a_number", {"run", "--nproc-per-node", "two", "echo"}, "--nproc-per-node 'two'"},
    {"no_workers", {"run", "--nproc-per-node", "0", "echo"}, "--nproc-per-node '0'"},
    {"gpus", {"run", "--nproc-per-node", "gpu", "echo"}, "--nproc-per-node gpu"},
    {"elastic", {"run", "--nnodes", "1:4", "echo"}, "--nnodes '1:4'"},
    {"node_rank_missing", {"run", "--nnodes", "2", "--master-addr", "x", "echo"}, "--node-rank"},
    {"node_rank_outside", {"run", "--nnodes", "2", "--node-rank", "2", "--master-addr", "x", "echo"}, "--node-rank 2"},
    {"node_rank_negative", {"run", "--node-rank", "-1", "echo"}, "--node-rank '-1'"},
    {"address_missing", {"run", "--nnodes", "2", "--node-rank", "0", "echo"}, "--master-addr"},
    {"port", {"run", "--master-port", "65536", "echo"}, "--master-port '65536'"},
    {"endpoint", {"run", "--rdzv-endpoint", "host:port", "echo"}, "--rdzv-endpoint 'host:port'"},
    {"endpoint_without_a_host", {"run", "--rdzv-endpoint", ":80", "echo"}, "--rdzv-endpoint ':80'"},
    {"endpoint_of_bare_ipv6",
     {"run", "--rdzv-endpoint", "fd00::1", "echo"},
     "--rdzv-endpoint 'fd00::1': expected HOST or HOST:PORT, an IPv6 address in brackets"},
    {"switch_with_a_word", {"run", "--quiet=maybe", "echo"}, "--quiet 'maybe': expected true or false"},
    {"switch_with_an_underscore", {"run", "--dry_run=maybe", "echo"}, "--dry-run 'maybe': expected true or false"},
    {"standalone_on_two_nodes", {"run", "--standalone", "--nnodes", "2", "--node-rank", "0", "echo"}, "--standalone"},
    {"standalone_with_a_port", {"run", "--standalone", "--master-port", "1", "echo"}, "--master-port"},
    {"restarts", {"run", "--max-restarts", "many", "echo"}, "--max-restarts 'many'"},
    {"redirects", {"run", "--redirects", "5", "--log-dir", "x", "echo"}, "--redirects '5'"},
    {"tee_without_a_directory", {"run", "--tee", "3", "echo"}, "--tee needs --log-dir"},
    {"filter", {"run", "--local-ranks-filter", "a", "echo"}, "--local-ranks-filter 'a'"},
    {"grace", {"run", "--grace-period", "soon", "echo"}, "--grace-period 'soon'"},
    {"cpu_bind", {"run", "--cpu-bind", "tight", "echo"}, "--cpu-bind 'tight'"},
    {"json_alone", {"run", "--json", "echo"}, "--json goes with --dry-run"},
    {"token_file", {"run", "--token-file", "/", "echo"}, "token file /: not a regular file"},
    {"refused_flag", {"run", "--monitor_interval=3", "echo"}, "--monitor_interval is not taken"},
    {"refused_backend", {"run", "--rdzv-backend", "c10d", "echo"}, "--rdzv-backend is not taken"},
};

INSTANTIATE_TEST_SUITE_P(Lockstep, BadCommandLine, testing::ValuesIn(kCases),
                         [](const auto& param_info) { return param_info.param.name; });

TEST(CommandLine, AValueOfTheEnvironmentIsNamedToo) {
  for (const auto& [name, value] : {std::pair{"PET_NNODES", "x"},
                                    {"PET_STANDALONE", "x"},
                                    {"PET_NO_PREFIX", "x"},
                                    {"PET_QUIET", "x"},
                                    {"PET_DRY_RUN", "x"},
                                    {"PET_JSON", "x"},
                                    {"LOCKSTEP_AFFINITY", "x"},
                                    {"LOCKSTEP_INIT_TIMEOUT", "x"}}) {
    ProcessOptions options;
    options.environment = {{name, value}};
    const ProcessEnd end = run_script({}, "echo started", options);
    EXPECT_EQ(end.exit_code, 2) << name;
    EXPECT_EQ(end.out, "");
    EXPECT_THAT(end.err, HasSubstr("'x'"));
  }
}

TEST(CommandLine, ABackendOfTheEnvironmentIsLookedAtBeforeAnythingIsMeasured) {
  ProcessOptions options;
  options.environment = {{"LOCKSTEP_BACKEND", "nope"}};
  for (const Arguments& words : {Arguments{"bench"}, {"bench", "--explain"}}) {
    Arguments argv = {LOCKSTEP_PROGRAM};
    argv.insert(argv.end(), words.begin(), words.end());
    const ProcessEnd end = support::run_program(argv, options);
    EXPECT_EQ(end.exit_code, 2);
    EXPECT_EQ(end.out, "");
    EXPECT_THAT(end.err, StartsWith("lockstep bench: unknown backend 'nope'; expected auto, "));
    EXPECT_EQ(lines_of(end.err).size(), 1u) << end.err;
  }
}

TEST(CommandLine, HelpOfRunSaysWhereLogsGo) {
  const ProcessEnd end = support::run_program({LOCKSTEP_PROGRAM, "run", "--help"});
  EXPECT_THAT(end.out,
              testing::AllOf(HasSubstr("DIR/RUN_ID/attempt_K/LOCAL_RANK/"), HasSubstr("DIR/RUN_ID/node_N/attempt_K/")));
}

TEST(CommandLine, HelpAboutACommandIsThatCommands) {
  for (const std::string command : {"run", "bench", "doctor", "help", "version"}) {
    const ProcessEnd end = support::run_program({LOCKSTEP_PROGRAM, "help", command});
    EXPECT_EQ(end.exit_code, 0) << command;
    EXPECT_EQ(end.err, "") << command;
    EXPECT_THAT(end.out, HasSubstr("Usage: lockstep " + command + " [OPTIONS]"));
  }
  const ProcessEnd end = support::run_program({LOCKSTEP_PROGRAM, "help"});
  EXPECT_THAT(end.out, testing::AllOf(HasSubstr("Usage: lockstep [OPTIONS] [SUBCOMMAND]"), HasSubstr("  doctor ")));
}

TEST(CommandLine, HelpIsEverywhere) {
  for (const Arguments& words :
       {Arguments{}, {"--help"}, {"help"}, {"run", "--help"}, {"help", "run"}, {"version"}, {"--version"}}) {
    Arguments argv = {LOCKSTEP_PROGRAM};
    argv.insert(argv.end(), words.begin(), words.end());
    const ProcessEnd end = support::run_program(argv);
    EXPECT_EQ(end.exit_code, 0);
    EXPECT_EQ(end.err, "");
    EXPECT_NE(end.out, "");
  }
  const ProcessEnd table = support::run_program({LOCKSTEP_PROGRAM, "help", "env"});
  EXPECT_THAT(table.out, testing::AllOf(HasSubstr("LOCKSTEP_JOB_TOKEN"), HasSubstr("MEANING"), HasSubstr("PET_")));
}

}  // namespace
}  // namespace lockstep::mp
