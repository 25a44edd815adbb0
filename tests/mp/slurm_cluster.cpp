#include "tests/mp/slurm_cluster.h"

#include <fcntl.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <sys/wait.h>

#include <fstream>
#include <sstream>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/host.h"
#include "lockstep/core/launch/random_id.h"
#include "lockstep/core/launch/worker_plan.h"
#include "tests/mp/exact_sum.h"
#include "tests/support/free_port.h"

namespace lockstep::mp {
namespace {

/// Daemons live where an ordinary user's PATH may not lead.
std::string find_daemon(const std::string& name) {
  for (const char* directory : {"/usr/sbin/", "/usr/local/sbin/"}) {
    if (::access((directory + name).c_str(), X_OK) == 0) return directory + name;
  }
  return find_installed(name);
}

std::string user_name() {
  const passwd* const user = ::getpwuid(::geteuid());
  return user != nullptr ? user->pw_name : std::to_string(::geteuid());
}

bool has_ended(const launch::Child& child, int milliseconds) {
  pollfd fd{child.pidfd.get(), POLLIN, 0};
  return ::poll(&fd, 1, milliseconds) > 0;
}

void end(const launch::Child& child) {
  ::kill(child.pid, SIGTERM);
  // What a daemon started is of its group.
  if (!has_ended(child, 5000)) ::kill(-child.pid, SIGKILL);
  ::waitpid(child.pid, nullptr, 0);
}

}  // namespace

std::string SlurmCluster::missing() {
  for (const char* program : {"slurmctld", "slurmd", "munged", "srun", "sinfo"}) {
    if (find_daemon(program).empty()) return base::cat(program, " is not installed (Debian: slurm-wlm, munge)");
  }
  return "";
}

SlurmCluster::SlurmCluster() {
  // Whatever user the daemons and the tasks are, they are this one; munged asks for directories that all can pass.
  LS_SYSCALL(::chmod(directory_.path().c_str(), 0755), "chmod ", directory_.path());
  for (const char* name : {"state", "spool"}) LS_SYSCALL(::mkdir(path(name).c_str(), 0755), "mkdir ", path(name));
  std::ofstream(path("munge.key")) << launch::random_hex(64);
  LS_SYSCALL(::chmod(path("munge.key").c_str(), 0600), "chmod ", path("munge.key"));
  write_configuration();
  start("munged", {"--foreground", "--force", "--socket=" + path("munge.socket"), "--key-file=" + path("munge.key"),
                   "--pid-file=" + path("munged.pid"), "--log-file=" + path("munged.log"),
                   "--seed-file=" + path("munge.seed"), "--num-threads=1"});
  start("slurmctld", {"-D", "-f", path("slurm.conf")});
  start("slurmd", {"-D", "-f", path("slurm.conf")});
  wait_until_ready();
}

SlurmCluster::~SlurmCluster() {
  while (!daemons_.empty()) {
    end(daemons_.back());
    daemons_.pop_back();
  }
  const Deadline deadline = Deadline::after(std::chrono::seconds(5));
  while (::waitpid(-1, nullptr, WNOHANG) >= 0 && !deadline.passed()) ::poll(nullptr, 0, 5);
}

void SlurmCluster::write_configuration() {
  std::string host = base::host_name();
  host.resize(std::min(host.find('.'), host.size()));
  const std::string user = user_name();
  std::ofstream out(path("slurm.conf"));
  out << "ClusterName=test\n"
      << "SlurmctldHost=" << host << "(127.0.0.1)\n"
      << "SlurmctldPort=" << support::free_port() << "\nSlurmdPort=" << support::free_port() << '\n'
      << "SlurmUser=" << user << "\nSlurmdUser=" << user << '\n'
      << "AuthType=auth/munge\nCredType=cred/munge\nAuthInfo=socket=" << path("munge.socket") << '\n'
      << "StateSaveLocation=" << path("state") << "\nSlurmdSpoolDir=" << path("spool") << '\n'
      << "SlurmctldPidFile=" << path("slurmctld.pid") << "\nSlurmdPidFile=" << path("slurmd.pid") << '\n'
      << "ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nSwitchType=switch/none\nMpiDefault=none\n"
      << "JobAcctGatherType=jobacct_gather/none\nAccountingStorageType=accounting_storage/none\n"
      << "SlurmdParameters=config_overrides\nReturnToService=2\n"
      << "NodeName=" << host << " NodeAddr=127.0.0.1 CPUs=8 State=UNKNOWN\n"
      << "PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n";
}

void SlurmCluster::start(const std::string& program, const std::vector<std::string>& arguments) {
  launch::ChildSpec spec;
  spec.argv = {find_daemon(program)};
  spec.argv.insert(spec.argv.end(), arguments.begin(), arguments.end());
  spec.environment = launch::merge_environment(launch::own_environment(), {variable()});
  const std::string log = path(program + ".out");
  const io::UniqueFd fd(LS_SYSCALL(::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600), log));
  spec.stdout_fd = spec.stderr_fd = fd.get();
  daemons_.push_back(launch::start_child(spec));
}

void SlurmCluster::wait_until_ready() {
  const Deadline deadline = Deadline::after(std::chrono::seconds(30));
  for (;;) {
    ProcessOptions options;
    options.environment = {variable()};
    const ProcessEnd nodes = support::run_program({find_installed("sinfo"), "--noheader", "--format=%T"}, options);
    if (nodes.ok() && nodes.out == "idle\n") return;
    for (const launch::Child& daemon : daemons_) {
      if (has_ended(daemon, 0)) throw PeerError("a daemon of Slurm has ended:\n" + last_words(), -1);
    }
    if (deadline.passed()) {
      throw TimeoutError("Slurm's node is " + nodes.out + nodes.err + "after 30 s; expected idle\n" + last_words());
    }
    has_ended(daemons_.back(), 50);
  }
}

std::string SlurmCluster::last_words() const {
  std::string out;
  for (const char* name : {"munged", "slurmctld", "slurmd"}) {
    std::ifstream in(path(std::string(name) + ".out"));
    std::vector<std::string> lines;
    for (std::string line; std::getline(in, line);) lines.push_back(line);
    const std::size_t first = lines.size() - std::min<std::size_t>(lines.size(), 8);
    for (std::size_t i = first; i < lines.size(); ++i) out += base::cat("  ", name, ": ", lines[i], '\n');
  }
  return out;
}

}  // namespace lockstep::mp
