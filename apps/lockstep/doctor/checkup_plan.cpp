#include "apps/lockstep/doctor/checkup.h"

namespace lockstep::doctor {
namespace {

int first_rank(const base::HostMap& map, int host) { return map.ranks_of_host[static_cast<std::size_t>(host)].front(); }

Pair pair_of(int a, int b) { return a < b ? Pair{a, b} : Pair{b, a}; }

}  // namespace

// The circle method: host 0 stays, the others move on by one seat a round, and who sits opposite each other meets. An
// odd number of hosts gets an empty seat, whose opponent rests.
std::vector<std::vector<Pair>> plan_pairs(const base::HostMap& map) {
  std::vector<std::vector<Pair>> rounds;
  std::vector<Pair> inside;
  for (const std::vector<int>& ranks : map.ranks_of_host) {
    if (ranks.size() >= 2) inside.push_back({ranks[0], ranks[1]});
  }
  if (!inside.empty()) rounds.push_back(inside);
  const int seats = map.hosts + map.hosts % 2;
  for (int round = 0; round + 1 < seats; ++round) {
    std::vector<Pair> pairs;
    const auto host_at = [&](int seat) { return seat == 0 ? 0 : 1 + (seat - 1 + round) % (seats - 1); };
    for (int seat = 0; seat < seats / 2; ++seat) {
      const int a = host_at(seat);
      const int b = host_at(seats - 1 - seat);
      if (a < map.hosts && b < map.hosts) pairs.push_back(pair_of(first_rank(map, a), first_rank(map, b)));
    }
    if (!pairs.empty()) rounds.push_back(pairs);
  }
  return rounds;
}

std::string rank_ranges(const std::vector<int>& ranks) {
  std::string out;
  for (std::size_t i = 0; i < ranks.size();) {
    std::size_t last = i;
    while (last + 1 < ranks.size() && ranks[last + 1] == ranks[last] + 1) ++last;
    if (!out.empty()) out += ", ";
    out += std::to_string(ranks[i]);
    if (last > i) out += (last == i + 1 ? ", " : "-") + std::to_string(ranks[last]);
    i = last + 1;
  }
  return out;
}

}  // namespace lockstep::doctor
