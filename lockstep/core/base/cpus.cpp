#include "lockstep/core/base/cpus.h"

#include <sched.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <optional>
#include <sstream>
#include <utility>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/deadline.h"

namespace lockstep::base {
namespace {

std::vector<int> affinity() {
  // The kernel's mask may be longer than cpu_set_t: EINVAL asks for a larger one.
  for (int size = CPU_SETSIZE;; size *= 2) {
    cpu_set_t* const set = CPU_ALLOC(size);
    const std::size_t nbytes = CPU_ALLOC_SIZE(size);
    CPU_ZERO_S(nbytes, set);
    const int error = ::sched_getaffinity(0, nbytes, set) == 0 ? 0 : errno;
    std::vector<int> cpus;
    for (int cpu = 0; error == 0 && cpu < size; ++cpu) {
      if (CPU_ISSET_S(cpu, nbytes, set)) cpus.push_back(cpu);
    }
    CPU_FREE(set);
    if (error == 0) return cpus;
    if (error != EINVAL || size > (1 << 20)) throw SystemError("can't read the CPU affinity of this process", error);
  }
}

std::optional<std::string> first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line)) return std::nullopt;
  return line;
}

/// cpu.max of v2: "max 100000" or "150000 100000".
std::optional<double> quota_v2(const std::string& directory) {
  const auto line = first_line(directory + "/cpu.max");
  if (!line) return std::nullopt;
  std::istringstream in(*line);
  double quota = 0;
  double period = 0;
  if (!(in >> quota >> period) || quota <= 0 || period <= 0) return std::nullopt;
  return quota / period;
}

/// v1: -1 is no limit.
std::optional<double> quota_v1(const std::string& directory) {
  const auto quota = first_line(directory + "/cpu.cfs_quota_us");
  const auto period = first_line(directory + "/cpu.cfs_period_us");
  if (!quota || !period) return std::nullopt;
  std::istringstream in(*quota + " " + *period);
  double a = 0;
  double b = 0;
  if (!(in >> a >> b) || a <= 0 || b <= 0) return std::nullopt;
  return a / b;
}

/// A group's path as it can be looked up below the mount: a process outside its namespace's root sees "/../x".
std::string without_parents(const std::string& path) {
  std::string out;
  std::istringstream in(path);
  for (std::string part; std::getline(in, part, '/');) {
    if (!part.empty() && part != "..") out += "/" + part;
  }
  return out;
}

/// The tightest limit from `group` up to the mount's root. Inside a container the group's path may be the host's, which
/// is not there; its ancestors are looked up all the same, and the mount's root is the container's own group.
template <typename Quota>
double tightest(const std::string& mount, std::string group, Quota quota_of) {
  double tightest = 0;
  for (;;) {
    const auto quota = quota_of(mount + group);
    if (quota && (tightest == 0 || *quota < tightest)) tightest = *quota;
    if (group.empty()) return tightest;
    group.erase(group.rfind('/'));
  }
}

bool lists(const std::string& controllers, const std::string& name) {
  std::istringstream in(controllers);
  for (std::string one; std::getline(in, one, ',');) {
    if (one == name) return true;
  }
  return false;
}

double read_quota(const std::string& root) {
  double least = 0;
  const auto take = [&least](double quota) {
    if (quota > 0 && (least == 0 || quota < least)) least = quota;
  };
  std::ifstream groups(root + "proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {  // hierarchy:controllers:path
    const auto first = line.find(':');
    const auto second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string group = without_parents(line.substr(second + 1));
    if (controllers.empty()) {
      for (const char* mount : {"sys/fs/cgroup", "sys/fs/cgroup/unified"})
        take(tightest(root + mount, group, quota_v2));
    } else if (lists(controllers, "cpu")) {
      for (const std::string& mount : std::array<std::string, 2>{"cpu", controllers}) {
        take(tightest(root + "sys/fs/cgroup/" + mount, group, quota_v1));
      }
    }
  }
  return least;
}

}  // namespace

CpuBudget read_cpu_budget(const std::string& root) {
  CpuBudget budget;
  budget.cpus = affinity();
  budget.quota = read_quota(root.ends_with('/') ? root : root + "/");
  budget.usable = static_cast<int>(std::max<std::size_t>(1, budget.cpus.size()));
  if (budget.quota > 0 && budget.quota < budget.usable) budget.usable = std::max(1, static_cast<int>(budget.quota));
  return budget;
}

bool yield_briefly() noexcept {
  thread_local Clock::time_point tick;
  ::sched_yield();
  const auto now = coarse_now();
  return std::exchange(tick, now) == now;
}

}  // namespace lockstep::base
