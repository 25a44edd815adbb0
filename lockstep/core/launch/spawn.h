#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <utility>

#include "lockstep/core/base/deadline.h"
#include "lockstep/core/base/error.h"

namespace lockstep {

/// A worker of spawn() failed. The text names its rank, how it ended and what it threw.
class WorkerError : public Error {
 public:
  WorkerError(const std::string& what, int rank, int exit_code, int signal, std::string worker_text)
      : Error(what), rank_(rank), exit_code_(exit_code), signal_(signal), worker_text_(std::move(worker_text)) {}
  /// The worker that failed first.
  int rank() const noexcept { return rank_; }
  /// Its exit code; 1 where its function threw, 0 where a signal ended it.
  int exit_code() const noexcept { return exit_code_; }
  /// The signal that ended it, or 0.
  int signal() const noexcept { return signal_; }
  /// what() of the exception that its function threw; empty where it did not throw.
  const std::string& worker_text() const noexcept { return worker_text_; }

 private:
  int rank_;
  int exit_code_;
  int signal_;
  std::string worker_text_;
};

struct SpawnOptions {
  Duration grace = std::chrono::seconds(30);  ///< for the others to end after one failed; then they are killed
  Duration timeout = Duration::max();         ///< for all to return; a job's length is the caller's business
  bool pin = true;  ///< each worker keeps to its share of the CPUs, where there is one for each
};

/// Runs `fn(rank, world_size)` in `world_size` new processes of this host and returns when all have returned.
///
/// Each worker is a forked copy of this process with the environment that `lockstep run` gives, so that
/// init_process_group() in it joins the others; stdout and stderr are this process's. It ends when `fn` returns,
/// without running this program's exit handlers, and it dies with this process.
///
/// Call it before anything starts threads (torch operations do, and so does OpenMP): a fork copies the calling thread
/// alone, and the locks and pools of the others would be stuck for ever. OMP_NUM_THREADS becomes the worker's share of
/// the cores where it is unset.
///
/// Throws WorkerError when a worker fails, after the others were ended (SIGTERM, then SIGKILL after the grace);
/// TimeoutError that names the ranks still running, which are killed; UsageError where this process has other threads
/// or world_size is not positive; SystemError. Cost: a fork for each worker, and one store.
void spawn(const std::function<void(int rank, int world_size)>& fn, int world_size, const SpawnOptions& options = {});

}  // namespace lockstep
