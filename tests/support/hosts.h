#pragma once
// Several hosts on this machine: network namespaces joined by a switch, with links of a chosen rate and delay.

#include <optional>
#include <string>
#include <vector>

#include "lockstep/core/launch/process.h"
#include "lockstep/core/launch/worker_plan.h"

namespace lockstep::support {

struct HostsOptions {
  std::string rate = {};  ///< of every link, each way, as tc writes it ("1gbit", "100mbit"); empty: as fast as it goes
  int delay_us = 0;       ///< of a frame from one host to another; a process of user space holds it so long
};

/// Hosts 0 to n - 1. Each is a network namespace with the interfaces lo and eth0; the switch that joins them is in one
/// of its own, so this machine's own network is not touched, and any number of such beds may be there at once: all have
/// the same addresses. A host has a host name of its own as well; files, memory and processes are this machine's.
///
/// Thread safety: one thread. The destructor removes everything; what still runs on a host then has no network. What a
/// killed process left behind goes when the next bed is made.
class Hosts {
 public:
  /// Why there can be no hosts here (not root, a program or a part of the kernel is missing); nothing where there can.
  static std::optional<std::string> why_not();

  /// Takes about 50 ms a host. Throws std::runtime_error with what `ip` or `tc` said; then nothing is left behind.
  explicit Hosts(int n, const HostsOptions& options = {});
  ~Hosts();
  Hosts(const Hosts&) = delete;
  Hosts& operator=(const Hosts&) = delete;

  int size() const noexcept { return size_; }
  /// Of eth0: 10.77.0.1 for host 0, and so on.
  std::string address(int host) const;
  /// What gethostname() says there.
  std::string name(int host) const;
  /// argv that runs `argv` on a host. The process that is started becomes the program: same id, same environment.
  std::vector<std::string> on(int host, const std::vector<std::string>& argv) const;

  /// Pulls the host's cable: nothing reaches it or leaves it, and nobody is told. Frames on their way are lost.
  void cut(int host);
  void restore(int host);

 private:
  std::string namespace_of(const std::string& place) const;
  void ip(const std::string& place, const std::string& arguments) const;
  void shape(const std::string& place, const std::string& interface, const std::string& rate) const;
  void build(const HostsOptions& options);
  void plug_in(int host, const HostsOptions& options);
  void join_ports(const HostsOptions& options);
  void remove() noexcept;

  int size_;
  std::string prefix_;  ///< begins the names of the namespaces of this bed
  launch::Child relay_;
};

/// One rank of a job on several hosts: where it runs, and the environment that torchrun would give it.
struct RankOnHost {
  int host;
  launch::Variables variables;
};
/// ranks_per_host[h] ranks on host h, counted through from host 0; they meet at `port` of host 0.
std::vector<RankOnHost> ranks_on(const Hosts& hosts, const std::vector<int>& ranks_per_host, int port);

}  // namespace lockstep::support
