// The job's secret: where `lockstep run` takes it from, and where nobody else can read it.

#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/core/io/file.h"
#include "lockstep/core/launch/random_id.h"
#include "tests/mp/exact_sum.h"
#include "tests/support/free_port.h"

namespace lockstep::mp {
namespace {

std::string write_token(const io::TempDirectory& directory, const std::string& token, mode_t mode = 0600) {
  const std::string path = directory.path() + "/token";
  std::ofstream(path) << token << '\n';
  EXPECT_EQ(::chmod(path.c_str(), mode), 0);
  return path;
}

/// The processes of this machine whose command lines hold `text`.
int command_lines_with(const std::string& text) {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    std::ifstream in(entry.path() / "cmdline", std::ios::binary);
    const std::string line{std::istreambuf_iterator<char>(in), {}};
    if (line.find(text) != std::string::npos) ++count;
  }
  return count;
}

TEST(JobToken, ReachesTheWorkersFromAFile) {
  const io::TempDirectory directory;
  const std::string path = write_token(directory, "a secret");
  ProcessOptions options;
  options.environment = {{"LOCKSTEP_JOB_TOKEN", "another"}};
  const ProcessEnd end = run_script({"--quiet", "--token-file", path}, "echo $LOCKSTEP_JOB_TOKEN", options);
  EXPECT_EQ(end.out, "a secret\n") << end.err;
  options.environment = {{"LOCKSTEP_JOB_TOKEN_FILE", path}};
  EXPECT_EQ(run_script({"--quiet"}, "echo $LOCKSTEP_JOB_TOKEN", options).out, "a secret\n");
}

TEST(JobToken, FromAFileThatOthersCanReadIsRefused) {
  const io::TempDirectory directory;
  const std::string path = write_token(directory, "a secret", 0640);
  const ProcessEnd end = run_script({"--token-file", path}, "echo started");
  EXPECT_EQ(end.exit_code, 2);
  EXPECT_EQ(end.out, "");
  EXPECT_EQ(end.err, "lockstep run: token file " + path + ": others than its owner may use it; chmod 600 " + path +
                         " (see lockstep run --help)\n");
}

enum class From { kFile, kEnvironment, kRandom };

/// Two workers a node hold still while the command lines of the machine are read.
void expect_on_no_command_line(From from, int nodes) {
  const io::TempDirectory directory;
  const std::string token = launch::random_hex(16);
  const std::string marker = launch::random_hex(16);  // what the search must find
  std::string told = token;
  ProcessOptions options;
  if (from == From::kEnvironment) options.environment = {{"LOCKSTEP_JOB_TOKEN", token}};
  const std::string port = std::to_string(support::free_port());
  std::vector<Arguments> commands;
  for (int node = 0; node < nodes; ++node) {
    Arguments flags = {"--nproc-per-node", "2", "--quiet"};
    if (nodes > 1) {
      flags = joined({flags,
                      {"--nnodes", std::to_string(nodes), "--node-rank", std::to_string(node), "--master-addr",
                       "127.0.0.1", "--master-port", port}});
    }
    if (from == From::kFile) flags = joined({flags, {"--token-file", write_token(directory, token)}});
    commands.push_back(launch_script(flags, "echo TOKEN $LOCKSTEP_JOB_TOKEN; while :; do sleep 1; done # " + marker));
  }
  int ready = 0;
  options.on_line = [&](launch::Supervisor& launchers, const launch::OutputLine& line) {
    const auto at = line.text.find("TOKEN ");
    if (at == std::string_view::npos || line.error) return;
    told = line.text.substr(at + 6);
    if (++ready < 2 * nodes) return;
    EXPECT_GE(command_lines_with(marker), 3 * nodes);  // each launcher, its workers, and what they just forked
    EXPECT_EQ(command_lines_with(told), 0);
    for (int node = 0; node < nodes; ++node) launchers.signal(node, SIGTERM);
  };
  const support::ProcessResult result = support::run_programs(commands, options);
  EXPECT_EQ(ready, 2 * nodes) << result;
  if (from == From::kRandom) {
    EXPECT_EQ(told.size(), 32u);
  } else {
    EXPECT_EQ(told, token);
  }
}

TEST(JobToken, FromAFileIsOnNoCommandLine) { expect_on_no_command_line(From::kFile, 2); }
TEST(JobToken, FromTheEnvironmentIsOnNoCommandLine) { expect_on_no_command_line(From::kEnvironment, 2); }
TEST(JobToken, ThatIsRandomIsOnNoCommandLine) { expect_on_no_command_line(From::kRandom, 1); }

TEST(JobToken, UnderMpirunIsOnNoCommandLine) {
  const std::string mpirun = find_installed("mpirun.openmpi");
  if (mpirun.empty()) GTEST_SKIP() << "mpirun.openmpi is not installed (Debian: openmpi-bin)";
  const std::string token = launch::random_hex(16);
  const std::string marker = launch::random_hex(16);
  ProcessOptions options;
  options.environment = {
      {"LOCKSTEP_JOB_TOKEN", token}, {"OMPI_ALLOW_RUN_AS_ROOT", "1"}, {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"}};
  int ready = 0;
  options.on_line = [&](launch::Supervisor& launchers, const launch::OutputLine& line) {
    if (line.text != "TOKEN " + token || ++ready < 2) return;
    EXPECT_GE(command_lines_with(marker), 3);
    EXPECT_EQ(command_lines_with(token), 0);
    launchers.signal(0, SIGTERM);
  };
  const std::string script = "echo TOKEN $LOCKSTEP_JOB_TOKEN; while :; do sleep 1; done # " + marker;
  const ProcessEnd end = support::run_program(
      {mpirun, "-x", "LOCKSTEP_JOB_TOKEN", "--oversubscribe", "-np", "2", "/bin/sh", "-c", script}, options);
  EXPECT_EQ(ready, 2) << end.err;
}

}  // namespace
}  // namespace lockstep::mp
