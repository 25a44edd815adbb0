#include "lockstep/core/launch/worker.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <iomanip>

#include "lockstep/core/base/check.h"

namespace lockstep::launch {
namespace {

constexpr int kDeathMilliseconds = 1000;

/// Opens the pipe of a stream that is captured; returns the end that the worker writes to.
io::UniqueFd open_stream(Worker::Stream& stream) {
  if (!stream.spec.log_file.empty()) stream.log.emplace(stream.spec.log_file);
  if (!stream.spec.capture) return {};
  std::array<int, 2> ends{};
  LS_SYSCALL(::pipe2(ends.data(), O_CLOEXEC), "can't make a pipe for a worker's output");
  stream.pipe.reset(ends[0]);
  ::fcntl(ends[0], F_SETFL, O_NONBLOCK);
  return io::UniqueFd(ends[1]);
}

}  // namespace

Worker::Worker(WorkerSpec spec) : spec_(std::move(spec)) {
  out_.spec = spec_.out;
  err_.spec = spec_.err;
  err_.error = true;
  const io::UniqueFd out_end = open_stream(out_);
  const io::UniqueFd err_end = open_stream(err_);
  spec_.child.stdout_fd = out_end.get();
  spec_.child.stderr_fd = err_end.get();
  started_ = Clock::now();
  child_ = start_child(spec_.child);
}

Worker::~Worker() {
  if (!alive_) return;
  tell(SIGKILL);
  // One that the kernel can't end (it hangs in a driver, or on a file server) must not hang this process too.
  pollfd fd{child_.pidfd.get(), POLLIN, 0};
  while (::poll(&fd, 1, kDeathMilliseconds) == -1 && errno == EINTR) {
  }
  siginfo_t info{};
  ::waitid(P_PIDFD, static_cast<id_t>(child_.pidfd.get()), &info, WEXITED | WNOHANG);
}

void Worker::abandon() noexcept {
  alive_ = false;
  child_.pidfd.reset();
  out_.pipe.reset();
  err_.pipe.reset();
}

bool Worker::signal(int signal) noexcept {
  if (!alive_) return false;
  // Not reaped yet, so neither the pid nor the group can have become somebody else's.
  ::kill(spec_.child.own_group ? -child_.pid : child_.pid, signal);
  return true;
}

void Worker::tell(int signal) noexcept {
  if (!alive_) return;
  told_ = true;
  this->signal(signal);
  this->signal(SIGCONT);  // a stopped process acts on a signal only when it goes on
}

bool Worker::pump(Stream& stream, const Receivers& receivers) {
  if (!stream.pipe) return false;
  std::array<char, 64 << 10> buffer;
  const ssize_t n = ::read(stream.pipe.get(), buffer.data(), buffer.size());
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return false;
  if (n <= 0) {
    finish(stream, receivers);
    return false;
  }
  const std::string_view bytes(buffer.data(), static_cast<std::size_t>(n));
  if (stream.log) stream.log->write(bytes);
  if (stream.spec.show && !spec_.prefix) (stream.error ? receivers.err : receivers.out)->append(bytes);
  stream.splitter.feed(bytes,
                       [&](std::string_view text, char terminator) { pass_line(stream, receivers, text, terminator); });
  return true;
}

void Worker::pass_line(const Stream& stream, const Receivers& receivers, std::string_view text, char terminator) {
  tail_.add(text, terminator);
  if (stream.spec.show && spec_.prefix) {
    std::string line = *spec_.prefix;
    line.append(text);
    line += terminator;
    (stream.error ? receivers.err : receivers.out)->append(line);
  }
  if (receivers.on_line) receivers.on_line({spec_.rank, child_.pid, stream.error, text});
}

void Worker::finish(Stream& stream, const Receivers& receivers) {
  stream.splitter.finish(
      [&](std::string_view text, char terminator) { pass_line(stream, receivers, text, terminator); });
  stream.pipe.reset();
}

void Worker::reap(const Receivers& receivers) {
  const auto end = Clock::now();
  const auto id = static_cast<id_t>(child_.pidfd.get());
  siginfo_t info{};
  LS_SYSCALL(::waitid(P_PIDFD, id, &info, WEXITED | WNOWAIT), "can't learn how worker rank ", spec_.rank, " (pid ",
             child_.pid, ") ended; does something else in this process wait for its children?");
  // While the dead leader is not collected its number stays taken, so the group is surely its own.
  if (spec_.child.own_group) ::kill(-child_.pid, SIGKILL);
  LS_SYSCALL(::waitid(P_PIDFD, id, &info, WEXITED), "can't collect worker rank ", spec_.rank);
  alive_ = false;
  for (Stream* const stream : {&out_, &err_}) {
    // A process that left the group may hold the pipe open and write for ever: what fits into the pipe is enough.
    for (int reads = 0; reads < 64 && pump(*stream, receivers); ++reads) {
    }
    if (stream->pipe) finish(*stream, receivers);
  }
  end_.rank = spec_.rank;
  end_.local_rank = spec_.local_rank;
  end_.pid = child_.pid;
  (info.si_code == CLD_EXITED ? end_.exit_code : end_.signal) = info.si_status;
  end_.told_to = told_;
  end_.after = end - started_;
  end_.last_lines = tail_.lines();
}

std::string describe(const WorkerEnd& end) {
  std::ostringstream out;
  out << "worker rank " << end.rank << " (local " << end.local_rank << ", pid " << end.pid << ") ";
  if (end.signal != 0) {
    out << "died of signal " << end.signal << " (" << signal_name(end.signal) << ")";
  } else {
    out << "exited with code " << end.exit_code;
  }
  out << " after " << std::fixed << std::setprecision(1) << seconds(end.after) << " s";
  return std::move(out).str();
}

std::string report(const WorkerEnd& end) {
  std::string text = describe(end);
  if (end.last_lines.empty()) return text + "; it printed nothing that was captured";
  text += "; its last lines:";
  for (const std::string& line : end.last_lines) text += "\n    " + line;
  return text;
}

}  // namespace lockstep::launch
