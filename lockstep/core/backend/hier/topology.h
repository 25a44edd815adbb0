#pragma once
// Which rank is where: pure.

#include <cstddef>
#include <string>
#include <vector>

#include "lockstep/core/base/partition.h"

namespace lockstep::hier {

/// Ranks by host, seen from one of them. Hosts are numbered by their lowest rank, ranks of a host in their order.
struct Topology {
  int rank = 0;
  int world_size = 1;
  std::vector<std::vector<int>> ranks_of_host;
  std::vector<int> host_of_rank;
  std::vector<int> local_rank_of;  ///< of each rank: its place on its host

  int hosts() const noexcept { return static_cast<int>(ranks_of_host.size()); }
  int host() const noexcept { return host_of_rank[static_cast<std::size_t>(rank)]; }
  int local_rank() const noexcept { return local_rank_of[static_cast<std::size_t>(rank)]; }
  const std::vector<int>& local_ranks() const { return ranks_of_host[static_cast<std::size_t>(host())]; }
  int local_size() const { return static_cast<int>(local_ranks().size()); }
  /// How many ranks of every host drive the wire: as many as the smallest host has. Carrier k of each host are a group.
  int carriers() const;
  bool is_carrier() const { return local_rank() < carriers(); }
  /// Carrier k of every host, in the order of hosts; ranks.
  std::vector<int> carriers_at(int k) const;
  /// True where the ranks of each host follow one another: 0 1 2 | 3 4 | 5 6 7.
  bool contiguous() const;
};

/// `host_ids`: one a rank, equal where the ranks are on one host.
Topology topology_of(const std::vector<std::string>& host_ids, int rank);

}  // namespace lockstep::hier
