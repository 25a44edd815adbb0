#pragma once
// How a rank waits: spin, then give the core away, then sleep.

#include <cstdint>
#include <span>
#include <vector>

namespace lockstep::shm {

/// The CPUs that one rank may use.
struct RankCpus {
  std::vector<int> cpus;  ///< affinity mask
  double quota = 0;       ///< CPUs' worth of time that the control group allows; 0: no limit
};

/// Steps of waiting, in order. Counts of polls; what is left is slept through in slices.
struct WaitPolicy {
  std::uint32_t spins = 0;
  std::uint32_t yields = 0;
};

/// True when every rank can have a CPU to itself: a matching of ranks to CPUs exists and the quota covers it.
bool exclusive_cpus(std::span<const RankCpus> ranks);

/// Spinning is fastest (a hand-off between cores takes 50 ns, a sleep and a wake-up 20 us) and harmless where each rank
/// has a CPU to itself; where ranks share CPUs a spinning rank keeps the one that it waits for from running, so it
/// yields at once. LOCKSTEP_WAIT (spin, yield, sleep) overrides; throws UsageError for another value.
WaitPolicy choose_wait_policy(std::span<const RankCpus> ranks);

}  // namespace lockstep::shm
