// A worker that is killed or stopped in the middle of training ends the job in time, with its rank in the error.

#include <csignal>
#include <filesystem>
#include <thread>

#include <gmock/gmock.h>

#include "tests/e2e/training.h"
#include "tests/support/dev_shm.h"

namespace lockstep::e2e {
namespace {

using support::shared_memory_files;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::Not;

/// The process that runs as `rank` below `ancestor`, or -1.
pid_t find_worker(pid_t launcher, int rank) {
  const std::string wanted = "RANK=" + std::to_string(rank);
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    std::ifstream stat(entry.path() / "stat");
    std::string pid;
    std::string command;
    std::string state;
    pid_t parent = -1;
    stat >> pid >> command >> state >> parent;
    if (parent != launcher) continue;
    std::ifstream environment(entry.path() / "environ");
    for (std::string variable; std::getline(environment, variable, '\0');) {
      if (variable == wanted) return std::stoi(name);
    }
  }
  return -1;
}

/// Trains for a long time on two workers, and sends `signal` to rank 1 once the first steps are in the metrics file.
support::ProcessEnd train_and_send(int signal, const std::string& metrics, const std::string& weights) {
  support::ProcessOptions options;
  options.deadline = std::chrono::seconds(100);
  options.tell_ranks = false;
  Arguments command = train_command(
      "lenet", 2, 32, {"--epochs", "100000", "--metrics", metrics, "--output", weights, "--timeout", "10"});
  std::string error;
  bool sent = false;
  support::ProcessEnd end;
  std::thread runner([&] { end = support::run_program(command, options); });
  for (const Deadline deadline = Deadline::after(std::chrono::seconds(40)); !sent && !deadline.passed();) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    std::ifstream in(metrics);
    std::string line;
    for (int lines = 0; lines < 10 && std::getline(in, line);) ++lines;
    if (!in) continue;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) {
      std::ifstream children(entry.path() / "children");
      for (pid_t launcher = 0; children >> launcher;) {
        const pid_t worker = find_worker(launcher, 1);
        if (worker > 0) sent = ::kill(worker, signal) == 0;
      }
    }
  }
  runner.join();
  EXPECT_TRUE(sent) << "no training worker was found: " << end.err;
  return end;
}

class TrainingFault : public ::testing::TestWithParam<int> {};

TEST_P(TrainingFault, EndsTheJobAndNamesTheRank) {
  const io::TempDirectory directory("fault");
  const auto before = shared_memory_files();
  const std::string weights = directory.path() + "/weights.pt";
  const auto end = train_and_send(GetParam(), directory.path() + "/metrics.jsonl", weights);
  EXPECT_EQ(end.signal, 0) << end.err;
  EXPECT_NE(end.exit_code, 0) << end.err;
  EXPECT_THAT(end.err, HasSubstr("rank 1")) << "the error must name the rank";
  if (GetParam() == SIGSTOP) {
    EXPECT_THAT(end.err, HasSubstr("timed out after 10 s"));
  } else {
    EXPECT_THAT(end.err, HasSubstr("SIGKILL"));
  }
  EXPECT_FALSE(std::filesystem::exists(weights)) << "half a run left its weights";
  EXPECT_EQ(shared_memory_files(), before);
}

INSTANTIATE_TEST_SUITE_P(Signals, TrainingFault, ::testing::Values(SIGKILL, SIGSTOP),
                         [](const auto& instance) { return instance.param == SIGKILL ? "killed" : "stopped"; });

}  // namespace
}  // namespace lockstep::e2e
