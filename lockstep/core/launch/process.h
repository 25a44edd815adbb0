#pragma once
// Starting one child process. Internal: never included from a public header.

#include <sys/resource.h>
#include <sys/types.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "lockstep/core/io/fd.h"

namespace lockstep::launch {

/// What a child runs, and on what. Descriptors of -1 are inherited; given ones stay the caller's.
struct ChildSpec {
  std::vector<std::string> argv;         ///< program (a path) and its arguments; or, when empty:
  std::function<int()> function;         ///< run in a forked copy of this process; its result is the exit code
  std::vector<std::string> environment;  ///< "NAME=value"; the whole environment of an executed program
  std::vector<int> cpus;                 ///< affinity mask; empty: as it is
  int stdin_fd = -1;
  int stdout_fd = -1;
  int stderr_fd = -1;
  std::optional<rlim_t> open_files;  ///< soft limit of a program; nothing: as it is
  bool own_group = true;             ///< leads a process group, so that what it starts can be ended with it
};

struct Child {
  pid_t pid = -1;
  io::UniqueFd pidfd;  ///< readable when the process has ended
};

/// While it lives this process may open as many files as its hard limit allows: the launcher of a large job needs more
/// than the usual 1024. Programs that it starts are to have what there was before: some use select().
class ManyOpenFiles {
 public:
  ManyOpenFiles() noexcept;
  ~ManyOpenFiles();
  ManyOpenFiles(const ManyOpenFiles&) = delete;
  ManyOpenFiles& operator=(const ManyOpenFiles&) = delete;
  /// The soft limit of before.
  rlim_t before() const noexcept { return before_.rlim_cur; }

 private:
  rlimit before_{};
};

/// Starts a child that dies with this process, however that ends: the kernel sends it SIGKILL when the calling thread
/// goes. A program starts with no signal blocked and SIGPIPE's default action. All other descriptors of this process
/// must be close-on-exec.
///
/// A `function` runs in a copy of the calling thread alone, so no other thread may be alive; the caller checks.
/// Throws SystemError when the program cannot be executed; then no process is left.
Child start_child(const ChildSpec& spec);

/// The file that `command` names: itself when it has a slash, else the first match on PATH.
/// Throws UsageError when there is none or it may not be executed; the text names it.
std::string find_program(const std::string& command);

/// "SIGKILL"; "signal 42" where it has no name.
std::string signal_name(int signal);

}  // namespace lockstep::launch
