#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace lockstep::bench {

/// Rate at which one core works on `bytes` that the other core has just written or read (GB/s of payload).
struct RemoteRate {
  std::size_t bytes = 0;
  double add = 0;    ///< own += what the other core has just written
  double write = 0;  ///< copy into what the other core has just read
};

/// What the machine allows, measured between two cores of this host; the ceiling of every collective on it.
struct MachineLimits {
  bool measured = false;           ///< false where only one CPU may be used: then there is nothing between two cores
  int cpus = 0;                    ///< that may be used
  double handoff_ns = 0;           ///< one way, through a cache line, both cores spinning
  std::vector<RemoteRate> remote;  ///< ascending sizes
  double copy_one = 0;             ///< GB/s of payload, memory-sized streams, one core
  double copy_both = 0;            ///< the same, both cores together
  double add_one = 0;              ///< a += b
  double add_both = 0;
  std::size_t cache_bytes = 0;  ///< the last level's size, as the kernel says; 0 where it does not
};

/// Measures between the first two of `cpus`, for vectors up to `max_bytes`. Takes about half a second.
/// Throws TimeoutError where the two cores do not get to run together.
MachineLimits measure_limits(const std::vector<int>& cpus, std::size_t max_bytes);

/// How much the hand-off changed between two measurements: the larger over the smaller; 1 where not measured.
double handoff_change(const MachineLimits& before, const MachineLimits& after);
/// Above this the cores were moved relative to each other during the run, and its numbers mean nothing.
inline constexpr double kSteadyChange = 1.5;

/// Pins the calling thread to one CPU. Throws SystemError.
void pin_to_cpu(int cpu);
/// The processor's name, as /proc/cpuinfo says.
std::string cpu_model();

}  // namespace lockstep::bench
