// `lockstep run --dry-run`: the plan, what is in the way, and nothing started.

#include <filesystem>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "lockstep/core/io/file.h"
#include "lockstep/core/io/socket.h"
#include "tests/mp/exact_sum.h"
#include "tests/support/free_port.h"

namespace lockstep::mp {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

ProcessEnd dry_run(const Arguments& flags, const Arguments& program, const ProcessOptions& options = {}) {
  return support::run_program(joined({{LOCKSTEP_PROGRAM, "run", "--dry-run"}, flags, {"--"}, program}), options);
}

TEST(DryRun, TellsThePlanAndStartsNothing) {
  const io::TempDirectory directory;
  const std::string file = directory.path() + "/started";
  const ProcessEnd end =
      dry_run({"--nproc-per-node", "3", "--rdzv-id", "job7", "--log-dir", directory.path() + "/logs"}, {"touch", file});
  EXPECT_EQ(end.exit_code, 0);
  EXPECT_EQ(end.err, "");
  EXPECT_THAT(end.out, AllOf(HasSubstr("program  touch " + file), HasSubstr("node 0 of 1: ranks 0-2 of 3\n"),
                             HasSubstr("3 workers on "), HasSubstr("job      job7, secret: random\n")));
  EXPECT_THAT(end.out, AllOf(HasSubstr("rank 2: "), HasSubstr("  LOCAL_RANK=2\n"), HasSubstr("  LOCAL_WORLD_SIZE=3\n"),
                             HasSubstr("  MASTER_PORT=(chosen at the start)\n")));
  EXPECT_FALSE(std::filesystem::exists(file));
  EXPECT_FALSE(std::filesystem::exists(directory.path() + "/logs"));
}

TEST(DryRun, AsJsonHoldsWhatTheWorkersWouldBeTold) {
  const std::string port = std::to_string(support::free_port());
  ProcessOptions options;
  options.environment = {{"LOCKSTEP_JOB_TOKEN", "7f3a-do-not-tell"}, {"OMP_NUM_THREADS", "1"}};
  const ProcessEnd end = dry_run({"--json", "--nnodes", "3", "--node-rank", "1", "--nproc-per-node", "2",
                                  "--master-addr", "127.0.0.1", "--master-port", port},
                                 {"/bin/true", "x"}, options);
  EXPECT_EQ(end.exit_code, 0) << end.err;
  EXPECT_THAT(end.out + end.err, Not(HasSubstr("7f3a")));
  const json plan = json::parse(end.out);
  EXPECT_EQ(plan["problems"], json::array());
  EXPECT_EQ(plan["program"], (json{"/bin/true", "x"}));
  EXPECT_EQ(plan["world_size"], 6);
  EXPECT_EQ(plan["store"], "127.0.0.1:" + port);
  EXPECT_EQ(plan["token"], "from LOCKSTEP_JOB_TOKEN");
  ASSERT_EQ(plan["workers"].size(), 2u);
  const json& second = plan["workers"][1];
  EXPECT_EQ(second["rank"], 3);
  EXPECT_EQ(second["local_rank"], 1);
  EXPECT_EQ(second["environment"]["GROUP_RANK"], "1");
  EXPECT_EQ(second["environment"]["LOCKSTEP_JOB_TOKEN"], "(hidden)");
  EXPECT_FALSE(second["environment"].contains("OMP_NUM_THREADS"));
}

/// The environment that it tells is the one that workers get, but for what is chosen at the start.
TEST(DryRun, TellsWhatARunDoes) {
  const Arguments flags = {"--nproc-per-node", "2", "--rdzv-id", "job", "--role", "r", "--max-restarts", "2"};
  const json plan = json::parse(dry_run(joined({flags, {"--json"}}), {"/bin/true"}).out);
  const ProcessEnd run = run_script(joined({flags, {"--quiet", "--local-ranks-filter", "1"}}), "env");
  const std::set<std::string> told = lines_of(run.out);
  int compared = 0;
  for (const auto& [name, value] : plan["workers"][1]["environment"].items()) {
    const std::string text = value.get<std::string>();
    if (text.find("(chosen at the start)") != std::string::npos || text == "(hidden)") continue;
    EXPECT_TRUE(told.contains(name + "=" + text)) << name << "=" << text;
    ++compared;
  }
  EXPECT_GE(compared, 14);
}

TEST(DryRun, NamesEveryProblemOnALineOfItsOwn) {
  const io::Listener taken("127.0.0.1", 0);
  const std::string port = std::to_string(taken.port());
  const Arguments flags = {"--rdzv-endpoint", "127.0.0.1:" + port, "--token-file",
                           "/no/such/token",  "--log-dir",         "/etc/passwd/logs"};
  for (const bool as_json : {false, true}) {
    const ProcessEnd end = dry_run(as_json ? joined({flags, {"--json"}}) : flags, {"no-such-program"});
    EXPECT_EQ(end.exit_code, 2);
    EXPECT_THAT(
        lines_of(end.err),
        ElementsAre(AllOf(HasSubstr("lockstep run: "), HasSubstr("--log-dir /etc/passwd/logs")), HasSubstr(port),
                    HasSubstr("program 'no-such-program'"), HasSubstr("token file /no/such/token")));
    if (as_json) {
      EXPECT_EQ(json::parse(end.out)["problems"].size(), 4u);
    }
  }
}

TEST(DryRun, NodeZeroMustOwnTheAddressAndOthersMustFindIt) {
  const auto nodes = [](const char* node, const char* host) {
    return dry_run({"--nnodes", "2", "--node-rank", node, "--master-addr", host, "--master-port",
                    std::to_string(support::free_port())},
                   {"/bin/true"});
  };
  EXPECT_EQ(nodes("0", "127.0.0.1").err, "");
  EXPECT_EQ(nodes("1", "192.0.2.1").err, "");  // of the network for documentation: never ours
  const ProcessEnd foreign = nodes("0", "192.0.2.1");
  EXPECT_EQ(foreign.exit_code, 2);
  EXPECT_THAT(foreign.err, HasSubstr("192.0.2.1"));
  EXPECT_EQ(lines_of(foreign.err).size(), 1u);
  const ProcessEnd unknown = nodes("1", "no-such-host.invalid");
  EXPECT_EQ(unknown.exit_code, 2);
  EXPECT_THAT(unknown.err, HasSubstr("node 0's host 'no-such-host.invalid' has no address"));
}

TEST(DryRun, PutsBracketsAroundAnIPv6AddressOfTheStore) {
  const auto store_of = [](const Arguments& flags) {
    const ProcessEnd end = dry_run(joined({flags, {"--json"}}), {"/bin/true"});
    const json plan = json::parse(end.out);
    EXPECT_EQ(plan["workers"][0]["environment"]["LOCKSTEP_STORE"], plan["store"]);
    return plan["store"].get<std::string>();
  };
  const Arguments second = {"--nnodes", "2", "--node-rank", "1"};
  EXPECT_EQ(store_of(joined({second, {"--master-addr", "fd00::1"}})), "[fd00::1]:29500");
  EXPECT_EQ(store_of(joined({second, {"--rdzv-endpoint", "[fd00::1]"}})), "[fd00::1]:29500");
  EXPECT_EQ(store_of(joined({second, {"--rdzv-endpoint", "[fd00::1]:29400"}})), "[fd00::1]:29400");
  EXPECT_EQ(store_of({"--rdzv-endpoint", "[::1]:0"}), "[::1]:(chosen at the start)");
  EXPECT_EQ(store_of({"--rdzv-endpoint", "[::]:0"}), "[::1]:(chosen at the start)");
}

TEST(DryRun, ALogDirectoryThatCannotBeWritten) {
  if (::geteuid() == 0) GTEST_SKIP() << "root may write everywhere";
  const ProcessEnd end = dry_run({"--log-dir", "/etc/logs"}, {"/bin/true"});
  EXPECT_EQ(end.exit_code, 2);
  EXPECT_THAT(end.err, HasSubstr("--log-dir /etc/logs: can't write to /etc"));
}

}  // namespace
}  // namespace lockstep::mp
