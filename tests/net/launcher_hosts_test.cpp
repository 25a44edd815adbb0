// `lockstep run` on two hosts that have a network between them.

#include <signal.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/base/environment.h"
#include "lockstep/core/io/socket.h"
#include "lockstep/core/store/tcp_store.h"
#include "tests/net/net_worker.h"

namespace lockstep::net {
namespace {

using support::Arguments;
using support::Hosts;
using support::ProcessEnd;
using support::ProcessOptions;
using support::ProcessResult;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

const std::string kPort = std::to_string(kMasterPort);

/// `lockstep run` on one of two hosts; `worker` is run there.
Arguments launcher(const Hosts& hosts, int node, const Arguments& worker, const Arguments& more = {}) {
  Arguments argv = {LOCKSTEP_PROGRAM, "run", "--nnodes", "2", "--node-rank", std::to_string(node), "--master-addr"};
  argv.insert(argv.end(), {hosts.address(0), "--master-port", kPort, "--quiet"});
  argv.insert(argv.end(), more.begin(), more.end());
  argv.emplace_back("--");
  argv.insert(argv.end(), worker.begin(), worker.end());
  return argv;
}

ProcessResult launch_both(const Hosts& hosts, const Arguments& worker, ProcessOptions options = {}) {
  options.environment.emplace_back("LOCKSTEP_JOB_TOKEN", "a secret of both");
  return run_one_each(hosts, {launcher(hosts, 0, worker), launcher(hosts, 1, worker)}, {}, options);
}

/// The launcher's store, as a worker reaches it.
std::shared_ptr<Store> launchers_store(Deadline deadline) {
  const std::string address = environment_string("LOCKSTEP_STORE").value_or("");
  const auto colon = address.rfind(':');
  return connect_tcp_store(address.substr(0, colon), std::stoi(address.substr(colon + 1)),
                           read_rank_environment().job_token, deadline);
}

/// "ADDRESS:PORT" in hexadecimal digits, for every listening socket of this host.
std::vector<std::string> listeners() {
  std::vector<std::string> out;
  for (const char* path : {"/proc/net/tcp", "/proc/net/tcp6"}) {
    std::ifstream in(path);
    std::string line;
    std::getline(in, line);  // the header
    while (std::getline(in, line)) {
      std::istringstream fields(line);
      std::string number, local, remote, state;
      fields >> number >> local >> remote >> state;
      if (state == "0A") out.push_back(local);
    }
  }
  return out;
}

/// Whether a running process has `text` among its arguments.
bool on_some_command_line(const std::string& text) {
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", none)) {
    std::ifstream in(entry.path() / "cmdline", std::ios::binary);
    std::ostringstream content;
    if (in) content << in.rdbuf();
    if (content.str().find(text) != std::string::npos) return true;
  }
  return false;
}

/// Ranks exchange a value each in the launcher's store and print what they got, then who listens on their host.
LOCKSTEP_WORKER(exchanges_in_the_store) {
  const RankEnvironment self = read_rank_environment();
  const Deadline deadline = Deadline::after(std::chrono::seconds(30));
  const auto store = launchers_store(deadline);
  store->set("value" + std::to_string(self.rank), std::to_string(100 + self.rank));
  for (int rank = 0; rank < self.world_size; ++rank) {
    std::cout << store->get("value" + std::to_string(rank), deadline) << std::endl;
  }
  for (const std::string& listener : listeners()) std::cout << "listens " << listener << std::endl;
  return 0;
}

/// Arguments: an address. Listens at the job's port of it until it is killed.
LOCKSTEP_WORKER(takes_the_port) {
  const io::Listener listener(arguments.at(0), kMasterPort);
  support::say_ready();
  for (;;) ::pause();
}

TEST(LauncherHosts, AJobOfTwoHostsEndsWell) {
  LOCKSTEP_NEEDS_HOSTS();
  const Hosts hosts(2);
  const Arguments worker = support::worker_command("exchanges_in_the_store");
  const ProcessResult result = launch_both(hosts, worker);
  ASSERT_TRUE(result.ok()) << result;
  // 10.77.0.1 as the kernel prints it, and port 29500: this interface alone, and nothing on the other host.
  EXPECT_EQ(result.ranks[0].out, "[0] 100\n[0] 101\n[0] listens 01004D0A:733C\n");
  EXPECT_EQ(result.ranks[1].out, "[1] 100\n[1] 101\n");
}

TEST(LauncherHosts, TheSecretIsOnNoCommandLine) {
  LOCKSTEP_NEEDS_HOSTS();
  const Hosts hosts(2);
  bool seen = false;
  int lines = 0;
  ProcessOptions options;
  options.on_line = [&](launch::Supervisor&, const launch::OutputLine&) {
    ++lines;
    seen = seen || on_some_command_line("a secret of both");
  };
  const ProcessResult result = launch_both(hosts, support::worker_command("exchanges_in_the_store"), options);
  ASSERT_TRUE(result.ok()) << result;
  EXPECT_GE(lines, 5);
  EXPECT_FALSE(seen);
}

TEST(LauncherHosts, AnotherSecretIsNotLetIn) {
  LOCKSTEP_NEEDS_HOSTS();
  const Hosts hosts(2);
  const Arguments worker = {"/bin/echo", "started"};
  ProcessOptions options;
  options.environment = {{"LOCKSTEP_INIT_TIMEOUT", "3"}};
  const ProcessResult result =
      run_one_each(hosts, {launcher(hosts, 0, worker), launcher(hosts, 1, worker)},
                   {{{"LOCKSTEP_JOB_TOKEN", "one secret"}}, {{"LOCKSTEP_JOB_TOKEN", "another"}}}, options);
  EXPECT_EQ(result.ranks[0].exit_code, 1) << result;
  EXPECT_THAT(result.ranks[0].err, HasSubstr("waited 3 s for node 1")) << result;
  EXPECT_EQ(result.ranks[1].exit_code, 2) << result;
  EXPECT_THAT(result.ranks[1].err, AllOf(HasSubstr("store at 10.77.0.1:29500 refuses this process"),
                                         HasSubstr("LOCKSTEP_JOB_TOKEN must be the same for all")))
      << result;
  for (const ProcessEnd& node : result.ranks) {
    EXPECT_EQ(node.out, "") << result;
    EXPECT_THAT(node.err, Not(HasSubstr("secret"))) << result;
  }
}

TEST(LauncherHosts, FlagsMustAgree) {
  LOCKSTEP_NEEDS_HOSTS();
  const Hosts hosts(2);
  const Arguments worker = {"/bin/echo", "started"};
  ProcessOptions options;
  options.environment = {{"LOCKSTEP_JOB_TOKEN", "one"}};
  const ProcessResult result = run_one_each(
      hosts, {launcher(hosts, 0, worker), launcher(hosts, 1, worker, {"--max-restarts", "2"})}, {}, options);
  for (const ProcessEnd& node : result.ranks) {
    EXPECT_EQ(node.exit_code, 1) << result;
    EXPECT_THAT(node.err, AllOf(HasSubstr("--max-restarts 0"), HasSubstr("--max-restarts 2"))) << result;
    EXPECT_EQ(node.out, "") << result;
  }
}

TEST(LauncherHosts, APortThatIsTakenIsNamed) {
  LOCKSTEP_NEEDS_HOSTS();
  const Hosts hosts(2);
  ProcessOptions options;
  options.environment = {{"LOCKSTEP_JOB_TOKEN", "one"}};
  int ready = 0;
  bool named = false;
  options.on_line = [&](launch::Supervisor& supervisor, const launch::OutputLine& line) {
    ready += !line.error && line.text.starts_with("READY");
    named = named || (line.rank == 2 && line.error);
    if (named && ready == 2) supervisor.signal(0, SIGKILL), supervisor.signal(1, SIGKILL);
  };
  // The same port of another host is nobody's business. The launcher waits for the port to be taken.
  const Arguments taker = support::worker_command("takes_the_port", {hosts.address(0)});
  const Arguments other = support::worker_command("takes_the_port", {hosts.address(1)});
  Arguments late = {"sh", "-c", "until grep -q ':733C .* 0A ' /proc/net/tcp; do :; done; exec \"$@\"", "sh"};
  for (const std::string& word : launcher(hosts, 0, {"/bin/echo", "started"})) late.push_back(word);
  const ProcessResult result =
      support::run_programs({hosts.on(0, taker), hosts.on(1, other), hosts.on(0, late)}, options);
  EXPECT_EQ(result.ranks[1].out, "READY \n") << result;
  EXPECT_EQ(result.ranks[2].exit_code, 1) << result;
  EXPECT_EQ(result.ranks[2].out, "") << result;
  EXPECT_THAT(result.ranks[2].err, HasSubstr("listen on 10.77.0.1:29500: the port is in use; choose another"))
      << result;
}

/// A host that goes without a word: its cable first, so that nobody hears of the end of its processes.
TEST(LauncherHosts, AHostThatIsGoneEndsTheJob) {
  LOCKSTEP_NEEDS_HOSTS();
  Hosts hosts(2);
  int ready = 0;
  ProcessOptions options;
  options.deadline = std::chrono::seconds(100);
  options.on_line = [&](launch::Supervisor& supervisor, const launch::OutputLine& line) {
    if (!line.text.ends_with("READY") || ++ready != 2) return;
    hosts.cut(1);
    supervisor.signal(1, SIGKILL);
  };
  const ProcessResult result = launch_both(hosts, {"/bin/sh", "-c", "echo READY; exec sleep 1000"}, options);
  EXPECT_FALSE(result.deadline_passed) << result;
  EXPECT_EQ(result.ranks[1].signal, SIGKILL) << result;
  EXPECT_EQ(result.ranks[0].exit_code, 1) << result;
  EXPECT_THAT(result.ranks[0].err, HasSubstr("node 1 has not been heard of for 30 s")) << result;
}

}  // namespace
}  // namespace lockstep::net
