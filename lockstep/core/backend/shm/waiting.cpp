#include "lockstep/core/backend/shm/waiting.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <map>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/environment.h"

namespace lockstep::shm {
namespace {

constexpr WaitPolicy kSpin{20000, 1000};
constexpr WaitPolicy kYield{0, 1000};
constexpr WaitPolicy kSleep{0, 0};

/// Kuhn's augmenting path: finds `rank` a CPU, moving earlier ranks to others of theirs where that helps.
bool place(std::size_t rank, std::span<const RankCpus> ranks, std::map<int, std::size_t>& owner,
           std::map<int, bool>& visited) {
  for (const int cpu : ranks[rank].cpus) {
    if (visited[cpu]) continue;
    visited[cpu] = true;
    const auto held = owner.find(cpu);
    if (held == owner.end() || place(held->second, ranks, owner, visited)) {
      owner[cpu] = rank;
      return true;
    }
  }
  return false;
}

}  // namespace

bool exclusive_cpus(std::span<const RankCpus> ranks) {
  double quota = std::numeric_limits<double>::infinity();
  for (const RankCpus& rank : ranks) {
    if (rank.quota > 0) quota = std::min(quota, rank.quota);
  }
  if (static_cast<double>(ranks.size()) > quota) return false;
  std::map<int, std::size_t> owner;
  for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
    std::map<int, bool> visited;
    if (!place(rank, ranks, owner, visited)) return false;
  }
  return true;
}

WaitPolicy choose_wait_policy(std::span<const RankCpus> ranks) {
  const std::string asked = environment_string("LOCKSTEP_WAIT").value_or("auto");
  if (asked == "spin") return kSpin;
  if (asked == "yield") return kYield;
  if (asked == "sleep") return kSleep;
  LS_REQUIRE(asked == "auto", "LOCKSTEP_WAIT is '", asked, "'; expected auto, spin, yield or sleep");
  return exclusive_cpus(ranks) ? kSpin : kYield;
}

}  // namespace lockstep::shm
