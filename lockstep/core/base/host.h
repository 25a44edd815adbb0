#pragma once
// Which ranks share a host. Internal: never included from a public header.

#include <span>
#include <string>
#include <vector>

namespace lockstep::base {

/// Where a process runs.
struct HostIdentity {
  std::string name;  ///< gethostname(), for people; two hosts may have the same
  std::string id;    ///< equal on two processes exactly where they are taken to be on one host
};

/// The host of this process. Two processes have the same id where they can share memory as the shm backend does, by
/// opening each other's descriptors in /proc/<pid>/fd, and where a peer's process id means the same to both:
///
///   boot id            one kernel
///   pid namespace      they see each other's process ids
///   user namespace     a user id means the same user in both
///   user id            the kernel lets them open each other's descriptors
///   network namespace  not needed to share memory. But it is what separates the members of a test bed, and pods of
///                      one machine: each has an address of its own, and is a host to everyone who connects to it
///
/// LOCKSTEP_HOST_ID replaces all of it. A process that cannot read these of itself (no /proc) is a host of its own.
HostIdentity own_host();

/// Which ranks are where. Hosts are numbered in the order in which ranks first name them.
struct HostMap {
  int hosts = 0;
  std::vector<int> host_of_rank;
  std::vector<std::vector<int>> ranks_of_host;  ///< ascending
};

/// Groups ranks by HostIdentity::id, given in rank order. Pure.
HostMap group_by_host(std::span<const std::string> ids);

/// Changes with every boot of every host: equal on two processes exactly where they run under one kernel. Empty where
/// the kernel does not say.
std::string boot_id();
/// gethostname(), or "unknown".
std::string host_name();

}  // namespace lockstep::base
