#pragma once
// Running the `lockstep` program under test.

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <map>
#include <set>
#include <sstream>
#include <string>
#include <string_view>

#include "tests/support/processes.h"

namespace lockstep::mp {

using support::Arguments;
using support::ProcessEnd;
using support::ProcessOptions;

/// lockstep run FLAGS -- sh -c SCRIPT
inline Arguments launch_script(const Arguments& flags, const std::string& script) {
  Arguments argv = {LOCKSTEP_PROGRAM, "run"};
  argv.insert(argv.end(), flags.begin(), flags.end());
  for (const char* word : {"--", "sh", "-c"}) argv.emplace_back(word);
  argv.push_back(script);
  return argv;
}

inline ProcessEnd run_script(const Arguments& flags, const std::string& script, const ProcessOptions& options = {}) {
  return support::run_program(launch_script(flags, script), options);
}

inline std::set<std::string> lines_of(const std::string& text) {
  std::set<std::string> out;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) out.insert(line);
  return out;
}

/// The processes that said "READY pid" so far, through whatever prefix.
class ReadyPids {
 public:
  /// True where this line was one.
  bool take(std::string_view line) {
    const auto at = line.find("READY ");
    if (at == std::string_view::npos) return false;
    pids_.insert(std::stoi(std::string(line.substr(at + 6))));
    return true;
  }
  std::size_t size() const { return pids_.size(); }
  const std::set<pid_t>& pids() const { return pids_; }
  bool any_alive() const {
    for (const pid_t pid : pids_) {
      if (::kill(pid, 0) == 0) return true;
    }
    return false;
  }

 private:
  std::set<pid_t> pids_;
};

/// While it lives, processes whose parent ends become children of this one, so that a test can wait for their end.
class Subreaper {
 public:
  Subreaper() { ::prctl(PR_SET_CHILD_SUBREAPER, 1); }
  ~Subreaper() { ::prctl(PR_SET_CHILD_SUBREAPER, 0); }
  Subreaper(const Subreaper&) = delete;
  Subreaper& operator=(const Subreaper&) = delete;

  /// The signal that ended an adopted process, or 0; waits for its end (ctest bounds the wait).
  static int signal_of(pid_t pid) {
    int status = 0;
    return ::waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  }
};

}  // namespace lockstep::mp
