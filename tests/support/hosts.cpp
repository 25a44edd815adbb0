// Every link is a pair of virtual interfaces: eth0 of the host and a port of the switch. A rate is a token bucket at
// both ends. Without a delay the switch is a bridge of the kernel; kernels need not have the queueing discipline that
// holds frames (netem), so with one it is delay_relay, a process between the ports.

#include "tests/support/hosts.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <charconv>
#include <filesystem>
#include <numeric>
#include <sstream>
#include <stdexcept>

#include "lockstep/core/base/check.h"
#include "lockstep/core/launch/worker_plan.h"

namespace lockstep::support {
namespace {

using Arguments = std::vector<std::string>;

constexpr const char* kPrefix = "lsnet";
constexpr const char* kSwitch = "switch";
constexpr const char* kNamespaces = "/run/netns";
constexpr int kMaxHosts = 200;  // of one address range

struct End {
  bool ok = false;
  std::string text;  // what it printed
};

std::string read_back(int fd) {
  std::string text(static_cast<std::size_t>(LS_SYSCALL(::lseek(fd, 0, SEEK_END), "lseek")), '\0');
  const ssize_t got = LS_SYSCALL(::pread(fd, text.data(), text.size(), 0), "reading what a program said");
  text.resize(static_cast<std::size_t>(got));
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

/// Runs a short program of the system to its end.
End run(Arguments argv) {
  const io::UniqueFd output(LS_SYSCALL(::memfd_create("output", MFD_CLOEXEC), "memfd_create"));
  launch::ChildSpec spec;
  argv[0] = launch::find_program(argv[0]);
  spec.argv = std::move(argv);
  spec.environment = launch::own_environment();
  spec.stdout_fd = spec.stderr_fd = output.get();
  const launch::Child child = launch::start_child(spec);
  int status = 0;
  LS_SYSCALL(::waitpid(child.pid, &status, 0), "waiting for ", spec.argv[0]);
  return {WIFEXITED(status) && WEXITSTATUS(status) == 0, read_back(output.get())};
}

Arguments words(const std::string& text) {
  std::istringstream in(text);
  Arguments out;
  for (std::string word; in >> word;) out.push_back(word);
  return out;
}

void must_run(const std::string& command) {
  const End end = run(words(command));
  if (!end.ok) throw std::runtime_error(command + ": " + end.text);
}

/// The namespaces whose names begin with `prefix`.
Arguments namespaces(const std::string& prefix) {
  Arguments names;
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator(kNamespaces, none)) {
    if (entry.path().filename().string().starts_with(prefix)) names.push_back(entry.path().filename());
  }
  return names;
}

void remove_leftovers() {
  for (const std::string& name : namespaces(kPrefix)) {
    const char* const digits = name.data() + std::string_view(kPrefix).size();
    pid_t owner = 0;
    std::from_chars(digits, name.data() + name.size(), owner);
    // Another process may be at it, too: who comes second finds nothing.
    if (owner > 0 && ::kill(owner, 0) != 0 && errno == ESRCH) run({"ip", "netns", "del", name});
  }
}

std::string port(int host) { return base::cat("port", host + 1); }

}  // namespace

std::optional<std::string> Hosts::why_not() {
  static const std::optional<std::string> reason = []() -> std::optional<std::string> {
    if (::geteuid() != 0) return "hosts on one machine need root, for network namespaces";
    for (const char* program : {"ip", "tc", "unshare", "hostname"}) {
      try {
        launch::find_program(program);
      } catch (const UsageError& error) {
        return base::cat("hosts on one machine need iproute2 and util-linux: ", error.what());
      }
    }
    const End end = run({"unshare", "--net", "--mount", "--uts", "sh", "-c",
                         "ip link add port0 type veth peer name port1 && ip link add bridge0 type bridge && "
                         "tc qdisc add dev port0 root tbf rate 1mbit burst 10kb limit 10kb"});
    if (!end.ok) return "hosts on one machine are not allowed here: " + end.text;
    return std::nullopt;
  }();
  return reason;
}

Hosts::Hosts(int n, const HostsOptions& options) : size_(n) {
  static std::atomic<int> beds{0};
  LS_REQUIRE(n > 0 && n <= kMaxHosts, n, " hosts: expected 1 to ", kMaxHosts);
  LS_REQUIRE(options.delay_us >= 0, "a delay of ", options.delay_us, " us: expected 0 or more");
  prefix_ = base::cat(kPrefix, ::getpid(), "-", ++beds, "-");
  remove_leftovers();
  try {
    build(options);
  } catch (...) {
    remove();
    throw;
  }
}

Hosts::~Hosts() { remove(); }

std::string Hosts::address(int host) const {
  LS_CHECK(host >= 0 && host < size_, "host ", host, " of ", size_);
  return base::cat("10.77.0.", host + 1);
}

std::string Hosts::name(int host) const {
  LS_CHECK(host >= 0 && host < size_, "host ", host, " of ", size_);
  return base::cat("host", host + 1);
}

std::vector<std::string> Hosts::on(int host, const std::vector<std::string>& argv) const {
  Arguments out = {launch::find_program("ip"), "netns", "exec", namespace_of(name(host)), "unshare", "--uts"};
  out.insert(out.end(), {"sh", "-c", "hostname \"$0\" && exec \"$@\"", name(host)});
  out.insert(out.end(), argv.begin(), argv.end());
  return out;
}

void Hosts::cut(int host) { ip(kSwitch, base::cat("link set ", port(host), " down")); }
void Hosts::restore(int host) { ip(kSwitch, base::cat("link set ", port(host), " up")); }

std::string Hosts::namespace_of(const std::string& place) const { return prefix_ + place; }

void Hosts::ip(const std::string& place, const std::string& arguments) const {
  must_run(base::cat("ip -n ", namespace_of(place), " ", arguments));
}

/// The bucket holds two of the largest packets; the queue behind it is 8 ms of a Gbit/s.
void Hosts::shape(const std::string& place, const std::string& interface, const std::string& rate) const {
  if (rate.empty()) return;
  must_run(base::cat("tc -n ", namespace_of(place), " qdisc add dev ", interface, " root tbf rate ", rate,
                     " burst 128kb limit 1mb"));
}

void Hosts::build(const HostsOptions& options) {
  must_run("ip netns add " + namespace_of(kSwitch));
  for (int host = 0; host < size_; ++host) plug_in(host, options);
  join_ports(options);
}

void Hosts::plug_in(int host, const HostsOptions& options) {
  const std::string here = name(host);
  must_run("ip netns add " + namespace_of(here));
  must_run(base::cat("ip link add eth0 netns ", namespace_of(here), " type veth peer name ", port(host), " netns ",
                     namespace_of(kSwitch)));
  ip(here, base::cat("addr add ", address(host), "/24 dev eth0"));
  ip(here, "link set lo up");
  ip(here, "link set eth0 up");
  shape(here, "eth0", options.rate);
  shape(kSwitch, port(host), options.rate);
  ip(kSwitch, base::cat("link set ", port(host), " up"));
}

void Hosts::join_ports(const HostsOptions& options) {
  if (options.delay_us == 0) {
    ip(kSwitch, "link add bridge0 type bridge");
    for (int host = 0; host < size_; ++host) ip(kSwitch, base::cat("link set ", port(host), " master bridge0"));
    return ip(kSwitch, "link set bridge0 up");
  }
  launch::ChildSpec spec;
  spec.argv = {launch::find_program("ip"), "netns", "exec", namespace_of(kSwitch), LOCKSTEP_DELAY_RELAY};
  spec.argv.push_back(std::to_string(options.delay_us));
  for (int host = 0; host < size_; ++host) spec.argv.push_back(port(host));
  spec.environment = launch::own_environment();
  std::array<int, 2> pipe{};
  LS_SYSCALL(::pipe2(pipe.data(), O_CLOEXEC), "pipe2");
  const io::UniqueFd says(pipe[0]);
  io::UniqueFd relay_end(pipe[1]);
  spec.stdout_fd = relay_end.get();
  relay_ = launch::start_child(spec);
  relay_end.reset();
  char ready = 0;  // comes when the relay hears every port; its end instead of it is the end of the pipe
  if (LS_SYSCALL(::read(says.get(), &ready, 1), "reading from the relay") != 1) {
    throw std::runtime_error("delay_relay did not start; its reason is on stderr");
  }
}

void Hosts::remove() noexcept {
  try {
    if (relay_.pid > 0) {
      ::kill(relay_.pid, SIGKILL);
      ::waitpid(relay_.pid, nullptr, 0);
      relay_.pid = -1;
    }
    for (const std::string& name : namespaces(prefix_)) run({"ip", "netns", "del", name});
  } catch (const std::exception&) {
    // The next bed finds what is left.
  }
}

std::vector<RankOnHost> ranks_on(const Hosts& hosts, const std::vector<int>& ranks_per_host, int port) {
  LS_CHECK(static_cast<int>(ranks_per_host.size()) <= hosts.size(), "ranks on more hosts than there are");
  const int world_size = std::accumulate(ranks_per_host.begin(), ranks_per_host.end(), 0);
  std::vector<RankOnHost> ranks;
  for (std::size_t host = 0; host < ranks_per_host.size(); ++host) {
    for (int local_rank = 0; local_rank < ranks_per_host[host]; ++local_rank) {
      ranks.push_back({static_cast<int>(host),
                       {{"RANK", std::to_string(ranks.size())},
                        {"WORLD_SIZE", std::to_string(world_size)},
                        {"LOCAL_RANK", std::to_string(local_rank)},
                        {"LOCAL_WORLD_SIZE", std::to_string(ranks_per_host[host])},
                        {"GROUP_RANK", std::to_string(host)},
                        {"GROUP_WORLD_SIZE", std::to_string(ranks_per_host.size())},
                        {"MASTER_ADDR", hosts.address(0)},
                        {"MASTER_PORT", std::to_string(port)},
                        {"LOCKSTEP_JOB_TOKEN", base::cat("net-test-", ::getpid())}}});
    }
  }
  return ranks;
}

}  // namespace lockstep::support
