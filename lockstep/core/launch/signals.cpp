#include "lockstep/core/launch/signals.h"

#include <poll.h>
#include <sys/signalfd.h>

#include <utility>

#include "lockstep/core/base/check.h"

namespace lockstep::launch {

JobSignals::JobSignals() {
  sigset_t taken;
  ::sigemptyset(&taken);
  for (const int signal : {SIGINT, SIGTERM, SIGQUIT, SIGTSTP}) ::sigaddset(&taken, signal);
  // The kernel queues a blocked signal even where it is ignored, and the descriptor would hand it out.
  struct sigaction hang_up {};
  ::sigaction(SIGHUP, nullptr, &hang_up);
  if (hang_up.sa_handler != SIG_IGN) ::sigaddset(&taken, SIGHUP);
  fd_.reset(LS_SYSCALL(::signalfd(-1, &taken, SFD_CLOEXEC | SFD_NONBLOCK), "can't make signals readable"));
  ::pthread_sigmask(SIG_BLOCK, &taken, &old_mask_);
  struct sigaction action {};
  action.sa_handler = SIG_IGN;
  ::sigaction(SIGPIPE, &action, &old_pipe_);
  action.sa_handler = SIG_DFL;
  ::sigaction(SIGCHLD, &action, &old_child_);
}

JobSignals::~JobSignals() {
  ::sigaction(SIGCHLD, &old_child_, nullptr);
  ::sigaction(SIGPIPE, &old_pipe_, nullptr);
  ::pthread_sigmask(SIG_SETMASK, &old_mask_, nullptr);
}

bool JobSignals::end_asked(int milliseconds) noexcept {
  pollfd fd{fd_.get(), POLLIN, 0};
  if (kept_ != 0 || ::poll(&fd, 1, milliseconds) <= 0) return kept_ != 0;
  kept_ = next();
  if (kept_ != SIGTSTP) return kept_ != 0;
  kept_ = 0;
  ::raise(SIGSTOP);
  return false;
}

int JobSignals::next() noexcept {
  if (kept_ != 0) return std::exchange(kept_, 0);
  signalfd_siginfo info{};
  return ::read(fd_.get(), &info, sizeof info) == sizeof info ? static_cast<int>(info.ssi_signo) : 0;
}

}  // namespace lockstep::launch
