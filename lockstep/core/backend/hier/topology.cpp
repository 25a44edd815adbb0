#include "lockstep/core/backend/hier/topology.h"

#include <algorithm>
#include <map>

namespace lockstep::hier {

int Topology::carriers() const {
  std::size_t least = static_cast<std::size_t>(world_size);
  for (const auto& ranks : ranks_of_host) least = std::min(least, ranks.size());
  return static_cast<int>(least);
}

std::vector<int> Topology::carriers_at(int k) const {
  std::vector<int> members;
  for (const auto& of_host : ranks_of_host) members.push_back(of_host[static_cast<std::size_t>(k)]);
  return members;
}

bool Topology::contiguous() const {
  int next = 0;
  for (const auto& of_host : ranks_of_host) {
    for (const int each : of_host) {
      if (each != next++) return false;
    }
  }
  return true;
}

Topology topology_of(const std::vector<std::string>& host_ids, int rank) {
  Topology topology;
  topology.rank = rank;
  topology.world_size = static_cast<int>(host_ids.size());
  std::map<std::string, int> hosts;
  for (int each = 0; each < topology.world_size; ++each) {
    const auto [found, is_new] = hosts.emplace(host_ids[static_cast<std::size_t>(each)], topology.hosts());
    if (is_new) topology.ranks_of_host.emplace_back();
    auto& ranks = topology.ranks_of_host[static_cast<std::size_t>(found->second)];
    topology.host_of_rank.push_back(found->second);
    topology.local_rank_of.push_back(static_cast<int>(ranks.size()));
    ranks.push_back(each);
  }
  return topology;
}

}  // namespace lockstep::hier
