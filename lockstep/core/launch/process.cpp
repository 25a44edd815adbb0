#include "lockstep/core/launch/process.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <sstream>

#include "lockstep/core/base/check.h"

namespace lockstep::launch {
namespace {

constexpr int kNotStarted = 127;  // what shells answer for a program that could not be run

std::vector<char*> pointers(const std::vector<std::string>& strings) {
  std::vector<char*> out;
  out.reserve(strings.size() + 1);
  for (const std::string& text : strings) out.push_back(const_cast<char*>(text.c_str()));
  out.push_back(nullptr);
  return out;
}

/// An affinity mask, allocated before fork() because the child may not allocate.
class CpuMask {
 public:
  explicit CpuMask(const std::vector<int>& cpus) {
    if (cpus.empty()) return;
    const int size = *std::max_element(cpus.begin(), cpus.end()) + 1;
    set_.reset(CPU_ALLOC(size));
    nbytes_ = CPU_ALLOC_SIZE(size);
    CPU_ZERO_S(nbytes_, set_.get());
    for (const int cpu : cpus) CPU_SET_S(cpu, nbytes_, set_.get());
  }
  /// A mask that the machine no longer allows is no reason not to run.
  void apply() const noexcept {
    if (set_) ::sched_setaffinity(0, nbytes_, set_.get());
  }

 private:
  struct Free {
    void operator()(cpu_set_t* set) const { CPU_FREE(set); }
  };
  std::unique_ptr<cpu_set_t, Free> set_;
  std::size_t nbytes_ = 0;
};

// From here to exec only async-signal-safe calls: another thread may have held any lock when fork() copied it.
void settle_in(const ChildSpec& spec, const CpuMask& cpus, pid_t parent) noexcept {
  if (spec.own_group) ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(kNotStarted);  // it went before the line above
  const std::array<std::pair<int, int>, 3> streams = {
      std::pair{spec.stdin_fd, STDIN_FILENO}, {spec.stdout_fd, STDOUT_FILENO}, {spec.stderr_fd, STDERR_FILENO}};
  for (const auto& [from, to] : streams) {
    if (from >= 0 && ::dup2(from, to) < 0) ::_exit(kNotStarted);
  }
  cpus.apply();
}

/// What a supervisor changes for itself. What it inherited as ignored (nohup) stays so.
void restore_signals() noexcept {
  struct sigaction fresh {};
  fresh.sa_handler = SIG_DFL;
  ::sigaction(SIGPIPE, &fresh, nullptr);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
}

void set_open_files(rlim_t soft) noexcept {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = soft;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

/// The child's side of an exec that failed: its errno goes up the pipe, which a successful exec closes empty.
[[noreturn]] void give_up(int report, int error) noexcept {
  [[maybe_unused]] const ssize_t written = ::write(report, &error, sizeof error);
  ::_exit(kNotStarted);
}

/// A function's child lives on as this program, so it keeps its signal handlers and mask.
[[noreturn]] void run_function(const ChildSpec& spec, const CpuMask& cpus, pid_t parent) {
  settle_in(spec, cpus, parent);
  int code = EXIT_FAILURE;
  try {
    code = spec.function();
  } catch (...) {
    code = EXIT_FAILURE;  // the function reports its exceptions itself
  }
  ::_exit(code);
}

pid_t start_program(const ChildSpec& spec, const CpuMask& cpus, pid_t parent) {
  const auto argv = pointers(spec.argv);
  const auto environment = pointers(spec.environment);
  std::array<int, 2> pipe{};
  LS_SYSCALL(::pipe2(pipe.data(), O_CLOEXEC), "can't make a pipe to start ", spec.argv[0]);
  const io::UniqueFd read_end(pipe[0]);
  io::UniqueFd write_end(pipe[1]);
  const pid_t pid = LS_SYSCALL(::fork(), "can't start ", spec.argv[0]);
  if (pid == 0) {
    settle_in(spec, cpus, parent);
    restore_signals();
    if (spec.open_files) set_open_files(*spec.open_files);
    ::execve(argv[0], argv.data(), environment.data());
    give_up(write_end.get(), errno);
  }
  write_end.reset();
  int error = 0;
  const ssize_t got = LS_SYSCALL(::read(read_end.get(), &error, sizeof error), "can't start ", spec.argv[0]);
  if (got == 0) return pid;
  ::waitpid(pid, nullptr, 0);
  throw SystemError("can't execute " + spec.argv[0], error);
}

bool is_executable_file(const std::string& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode) && ::access(path.c_str(), X_OK) == 0;
}

}  // namespace

ManyOpenFiles::ManyOpenFiles() noexcept {
  if (::getrlimit(RLIMIT_NOFILE, &before_) == 0) set_open_files(before_.rlim_max);
}

ManyOpenFiles::~ManyOpenFiles() { set_open_files(before_.rlim_cur); }

Child start_child(const ChildSpec& spec) {
  LS_CHECK(spec.argv.empty() != !spec.function, "a child is a program or a function");
  const CpuMask cpus(spec.cpus);
  const pid_t parent = ::getpid();
  Child child;
  if (spec.function) {
    child.pid = LS_SYSCALL(::fork(), "can't start a worker");
    if (child.pid == 0) run_function(spec, cpus, parent);
  } else {
    child.pid = start_program(spec, cpus, parent);
  }
  // On both sides of the fork, so that the group is there whoever runs first.
  if (spec.own_group) ::setpgid(child.pid, child.pid);
  child.pidfd.reset(static_cast<int>(::syscall(SYS_pidfd_open, child.pid, 0)));
  if (!child.pidfd) {
    const int error = errno;
    ::kill(child.pid, SIGKILL);
    ::waitpid(child.pid, nullptr, 0);
    throw SystemError("can't watch the process that was started (Linux 5.3 or newer is needed)", error);
  }
  return child;
}

std::string find_program(const std::string& command) {
  LS_REQUIRE(!command.empty(), "the program's name is empty");
  if (command.find('/') != std::string::npos) {
    struct stat info {};
    LS_REQUIRE(::stat(command.c_str(), &info) == 0, "program '", command, "': ", ::strerror(errno));
    LS_REQUIRE(!S_ISDIR(info.st_mode), "program '", command, "' is a directory");
    LS_REQUIRE(is_executable_file(command), "program '", command, "' is not executable (chmod +x makes it so)");
    return command;
  }
  const char* const value = ::getenv("PATH");
  std::istringstream path(value != nullptr ? value : "/usr/local/bin:/usr/bin:/bin");
  for (std::string directory; std::getline(path, directory, ':');) {
    const std::string candidate = (directory.empty() ? "." : directory) + "/" + command;
    if (is_executable_file(candidate)) return candidate;
  }
  struct stat info {};
  const bool here = ::stat(command.c_str(), &info) == 0 && S_ISREG(info.st_mode);
  throw UsageError(base::cat("program '", command, "' is not on PATH", here ? "; for the file here say ./" : "",
                             here ? command : ""));
}

std::string signal_name(int signal) {
  const char* const name = ::sigabbrev_np(signal);
  return name != nullptr ? base::cat("SIG", name) : base::cat("signal ", signal);
}

}  // namespace lockstep::launch
