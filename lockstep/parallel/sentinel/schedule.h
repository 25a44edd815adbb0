#pragma once
// Internal: never included from a public header.
//
// When the ranks compare: functions of the step's number alone (from 1), so that all ranks agree without asking.

#include <algorithm>
#include <cstdint>

namespace lockstep::sentinel {

/// Parameters, settings and gradients: steps 1, 2, 4, ... below `every`, then each multiple of it. Most mistakes are
/// there from the start.
inline bool state_is_due(std::int64_t step, std::int64_t every) noexcept {
  if (step % every == 0) return true;
  return step < every && (step & (step - 1)) == 0;
}

/// Samples: 1 2 3 4 5 6 7 8 10 12 15 ..., each a quarter after the one before: what is seen is compared soon, whatever
/// the epoch's length, at a cost that grows with the logarithm of the steps.
class SampleSchedule {
 public:
  /// Call it once for each step, in order.
  bool is_due(std::int64_t step) noexcept {
    if (step < next_) return false;
    next_ = step + std::max<std::int64_t>(1, step / 4);
    return true;
  }

 private:
  std::int64_t next_ = 1;
};

}  // namespace lockstep::sentinel
