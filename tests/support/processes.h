#pragma once
// Ranks as processes: this test binary, run again. For binaries made by lockstep_worker_binary() in CMake.

#include <chrono>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lockstep/core/base/deadline.h"
#include "lockstep/core/launch/supervisor.h"
#include "lockstep/core/launch/worker_plan.h"

namespace lockstep::support {

using Arguments = std::vector<std::string>;

/// What a worker process runs instead of tests; its result is the exit code. An exception is printed to stderr with its
/// type ("TimeoutError: ...") and makes the exit code kThrew.
using WorkerFunction = int (*)(const Arguments& arguments);
inline constexpr int kThrew = 70;

/// LOCKSTEP_WORKER(name) { ... use `arguments` ...; return 0; }   at namespace scope, in a .cpp of the test binary.
#define LOCKSTEP_WORKER(name)                                                                                        \
  static int lockstep_worker_##name([[maybe_unused]] const ::lockstep::support::Arguments& arguments);               \
  static const ::lockstep::support::WorkerRegistration lockstep_registration_##name(#name, &lockstep_worker_##name); \
  static int lockstep_worker_##name([[maybe_unused]] const ::lockstep::support::Arguments& arguments)

class WorkerRegistration {
 public:
  WorkerRegistration(std::string_view name, WorkerFunction function);
};

/// In a worker: prints "READY <what>" at once, for on_line of the parent to act upon.
void say_ready(std::string_view what = "");

struct ProcessOptions {
  Duration deadline = std::chrono::seconds(60);                  ///< then everything is killed
  std::vector<std::pair<std::string, std::string>> environment;  ///< set besides what a launcher sets
  bool tell_ranks = true;  ///< false: as if no launcher were there (no RANK ..., no store)
  /// Sees each line that a process prints, as it comes; may send signals: supervisor.signal(rank, SIGKILL).
  std::function<void(launch::Supervisor&, const launch::OutputLine&)> on_line;
};

/// How one process ended and what it printed.
struct ProcessEnd {
  int rank = 0;
  pid_t pid = -1;
  int exit_code = 0;  ///< 0 when a signal ended it
  int signal = 0;     ///< 0 when it exited
  Duration after{};
  std::string out;
  std::string err;
  bool ok() const noexcept { return exit_code == 0 && signal == 0; }
};

struct ProcessResult {
  std::vector<ProcessEnd> ranks;
  bool deadline_passed = false;
  bool ok() const;
};

/// For failure messages: EXPECT_TRUE(result.ok()) << result; each rank's end and its last lines.
std::ostream& operator<<(std::ostream& out, const ProcessResult& result);

/// Runs `n` copies of the named worker, with the environment that `lockstep run` gives (RANK, WORLD_SIZE,
/// LOCAL_RANK ..., LOCKSTEP_STORE of a store in this process) and a private TMPDIR that is removed afterwards. One that
/// fails leaves the others running: the test says what is right.
ProcessResult run_processes(int n, const std::string& worker, const Arguments& arguments = {},
                            const ProcessOptions& options = {});

/// Runs programs at once in the same way, but without a launcher's environment; "rank" is their index.
ProcessResult run_programs(const std::vector<Arguments>& commands, const ProcessOptions& options = {});
/// The same; variables[i] are set for commands[i] alone.
ProcessResult run_programs(const std::vector<Arguments>& commands, const std::vector<launch::Variables>& variables,
                           const ProcessOptions& options = {});
ProcessEnd run_program(const Arguments& argv, const ProcessOptions& options = {});

/// argv that runs a worker of this binary, for tests that start it by other means (`lockstep run -- ...`).
Arguments worker_command(const std::string& worker, const Arguments& arguments = {});

/// For main(): runs the worker that the command line names and leaves its exit code; false for an ordinary test run.
bool run_as_worker(int argc, char** argv, int& exit_code);

}  // namespace lockstep::support
