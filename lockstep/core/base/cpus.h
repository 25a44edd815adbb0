#pragma once
// Internal: never included from a public header.

#include <string>
#include <vector>

namespace lockstep::base {

/// What this process may use of the machine's processors.
struct CpuBudget {
  std::vector<int> cpus;  ///< numbers of the CPUs in the affinity mask, ascending
  double quota = 0;       ///< CPUs' worth of time that the control groups allow; 0: no limit
  int usable = 1;  ///< how many threads can run at once: the mask's size, cut to the quota rounded down; at least 1
};

/// Reads the calling thread's affinity mask and the CPU limits of its control groups (v2: cpu.max, v1:
/// cpu.cfs_quota_us), the tightest one from its own group up to the root. `root` stands in for "/" in tests; the
/// mask is always the real one. A file that is missing or unreadable sets no limit. Throws SystemError when there is
/// no mask.
CpuBudget read_cpu_budget(const std::string& root = "/");

/// One step of a spin: tells the core that it is waiting.
inline void cpu_relax() noexcept {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield" ::: "memory");
#endif
}

/// Gives the core to others. False where the clock has ticked (every 1 to 10 ms) since this thread last called it: a
/// wait must then look at its deadline, since on a busy machine a hundred of these are seconds.
bool yield_briefly() noexcept;

}  // namespace lockstep::base
