#include "lockstep/core/base/host.h"

#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <map>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/environment.h"

namespace lockstep::base {
namespace {

/// The kernel's number of one of this process's namespaces; 0 where it does not say.
ino_t namespace_number(const char* kind) {
  struct stat info {};
  return ::stat(cat("/proc/self/ns/", kind).c_str(), &info) == 0 ? info.st_ino : 0;
}

std::string own_id() {
  if (const auto given = environment_string("LOCKSTEP_HOST_ID")) return *given;
  const std::string boot = boot_id();
  const ino_t pid = namespace_number("pid");
  const ino_t user = namespace_number("user");
  const ino_t net = namespace_number("net");
  if (boot.empty() || pid == 0 || user == 0 || net == 0) return cat("alone:", host_name(), ":", ::getpid());
  return cat(boot, ",pid:", pid, ",user:", user, ",net:", net, ",uid:", ::geteuid());
}

}  // namespace

HostIdentity own_host() { return {host_name(), own_id()}; }

HostMap group_by_host(std::span<const std::string> ids) {
  HostMap map;
  std::map<std::string_view, int> numbers;
  for (std::size_t rank = 0; rank < ids.size(); ++rank) {
    const auto [entry, fresh] = numbers.emplace(ids[rank], map.hosts);
    if (fresh) {
      ++map.hosts;
      map.ranks_of_host.emplace_back();
    }
    map.host_of_rank.push_back(entry->second);
    map.ranks_of_host[static_cast<std::size_t>(entry->second)].push_back(static_cast<int>(rank));
  }
  return map;
}

std::string boot_id() {
  std::ifstream in("/proc/sys/kernel/random/boot_id");
  std::string id;
  std::getline(in, id);
  return id;
}

std::string host_name() {
  char name[256] = {};
  return ::gethostname(name, sizeof name - 1) == 0 ? name : "unknown";
}

}  // namespace lockstep::base
