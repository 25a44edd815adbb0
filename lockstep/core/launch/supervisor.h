#pragma once
// Watching over the workers of one host. Internal: never included from a public header.

#include <sys/types.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lockstep/core/base/deadline.h"
#include "lockstep/core/launch/process.h"
#include "lockstep/core/launch/signals.h"

namespace lockstep::launch {

/// What becomes of one output stream of a worker.
struct StreamSpec {
  bool capture = true;   ///< through a pipe; false: the worker writes to our own stream itself
  bool show = true;      ///< a captured line goes to our own stream
  std::string log_file;  ///< a captured line goes to this file as well; empty: none
};

struct WorkerSpec {
  int rank = 0;
  int local_rank = 0;
  ChildSpec child;  ///< its stdout and stderr are set by the supervisor
  StreamSpec out;
  StreamSpec err;
  std::optional<std::string> prefix;  ///< of each shown line; nothing: bytes pass through as they come, not by line
};

/// How a worker ended.
struct WorkerEnd {
  int rank = 0;
  int local_rank = 0;
  pid_t pid = -1;
  int exit_code = 0;                    ///< 0 when a signal ended it
  int signal = 0;                       ///< 0 when it exited
  bool told_to = false;                 ///< it ended after it was told to: no failure of its own
  Duration after{};                     ///< from its start
  std::vector<std::string> last_lines;  ///< of what was captured, stdout and stderr in the order they came

  bool failed() const noexcept { return signal != 0 || exit_code != 0; }
  /// What a shell would answer: the exit code, or 128 + signal.
  int shell_code() const noexcept { return signal != 0 ? 128 + signal : exit_code; }
};

/// "worker rank 1 (local 1, pid 123) died of signal 9 (SIGKILL) after 3.2 s"
std::string describe(const WorkerEnd& end);
/// describe() and the worker's last lines, indented.
std::string report(const WorkerEnd& end);

/// What the rest of the job says, where it spans hosts.
struct Elsewhere {
  enum class State {
    kRunning,   ///< go on, and wait even when all workers here have ended
    kFinished,  ///< nothing is left to wait for once all workers here have ended
    kStop,      ///< end the workers here; `reason` says why
  };
  State state = State::kFinished;
  std::string reason;
};

struct OutputLine {
  int rank = 0;
  pid_t pid = -1;
  bool error = false;  ///< from stderr
  std::string_view text;
};

/// What happened to all of them.
struct RunEnd {
  std::vector<WorkerEnd> workers;            ///< in the order they were started
  std::optional<std::size_t> first_failure;  ///< index of the first worker that failed by itself
  int interrupted_by = 0;                    ///< the signal that ended the job, or 0
  std::optional<std::string> stopped;        ///< why another host ended the job
  bool elsewhere_gone = false;               ///< the other hosts could no longer be asked
  bool deadline_passed = false;
};

class Supervisor;

struct SupervisorOptions {
  Duration grace = std::chrono::seconds(30);  ///< from the request to end until SIGKILL
  bool end_on_failure = true;                 ///< the first failure ends the siblings
  JobSignals* signals = nullptr;              ///< whose arrival ends the workers; outlives the supervisor
  Deadline deadline = Deadline::none();       ///< then the workers are killed
  std::string narrator;                       ///< begins our own lines on stderr ("lockstep run"); empty: silent
  std::function<void(Supervisor&, const OutputLine&)> on_line;  ///< sees every captured line, on the calling thread
  std::function<Elsewhere(const RunEnd& so_far, bool all_ended)> elsewhere;  ///< asked every 100 ms, and on a failure
};

/// Starts workers, pumps their output and waits for them, in one poll loop on the calling thread. A worker that ends
/// takes what it left in its process group with it.
///
/// After the first failure, here or elsewhere, the others have 300 ms to notice, and to say what they missed. To end
/// workers: SIGTERM (or the signal that this process got), then after the grace SIGKILL; a second signal kills at once.
/// Thread safety: one thread. The destructor kills whatever is alive.
class Supervisor {
 public:
  explicit Supervisor(SupervisorOptions options);
  ~Supervisor();
  Supervisor(const Supervisor&) = delete;
  Supervisor& operator=(const Supervisor&) = delete;

  /// Throws SystemError; workers that were started before run on.
  void start(WorkerSpec spec);
  /// Until all workers have ended and their output is written.
  RunEnd run();
  /// Sends a signal to a worker (its group where it has one), unless it has ended. Returns false when it has.
  bool signal(int rank, int signal);
  /// In a forked child: lets go of the descriptors, and of the duty to end the siblings.
  void abandon() noexcept;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep::launch
