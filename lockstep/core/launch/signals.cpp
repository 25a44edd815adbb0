#include "lockstep/core/launch/signals.h"

#include <poll.h>
#include <sys/signalfd.h>

#include "lockstep/core/base/check.h"

namespace lockstep::launch {

JobSignals::JobSignals() {
  sigset_t taken;
  ::sigemptyset(&taken);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP}) ::sigaddset(&taken, signal);
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

bool JobSignals::pending() const noexcept {
  pollfd fd{fd_.get(), POLLIN, 0};
  return ::poll(&fd, 1, 0) > 0;
}

int JobSignals::next() noexcept {
  signalfd_siginfo info{};
  return ::read(fd_.get(), &info, sizeof info) == sizeof info ? static_cast<int>(info.ssi_signo) : 0;
}

}  // namespace lockstep::launch
