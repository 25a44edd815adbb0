#pragma once
// Signals that a launcher reads instead of dying of them. Internal: never included from a public header.

#include <signal.h>

#include "lockstep/core/io/fd.h"

namespace lockstep::launch {

/// Blocks SIGINT, SIGTERM, SIGHUP, SIGQUIT and SIGTSTP and makes them readable, ignores SIGPIPE and takes SIGCHLD's
/// default action, while it lives. Make it before any thread: threads inherit the blocked signals. A SIGHUP that was
/// ignored before (nohup) stays ignored.
class JobSignals {
 public:
  JobSignals();
  ~JobSignals();
  JobSignals(const JobSignals&) = delete;
  JobSignals& operator=(const JobSignals&) = delete;

  /// Readable when a signal has come.
  int fd() const noexcept { return fd_.get(); }
  /// The next signal, or 0; never waits.
  int next() noexcept;
  /// Waits so long at most for a signal that ends the job, which next() then gives. Ctrl-Z is none: it stops this
  /// process until somebody continues it.
  bool end_asked(int milliseconds) noexcept;

 private:
  sigset_t old_mask_{};
  struct sigaction old_pipe_ {};
  struct sigaction old_child_ {};
  io::UniqueFd fd_;
  int kept_ = 0;  ///< read by end_asked(), not yet by next()
};

}  // namespace lockstep::launch
