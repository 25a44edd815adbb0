#pragma once
// Who is in an engine: its caller, or a thread that waits in another group and looks in on the way.

#include <sched.h>

#include <atomic>

#include "lockstep/core/base/cpus.h"

namespace lockstep {

/// Held by a caller for the length of a call. A thread that looks in holds the engine for a step, so this waits for no
/// longer than that.
class Turn {
 public:
  explicit Turn(std::atomic<bool>& entered) : entered_(entered) {
    for (int polls = 1; entered_.exchange(true, std::memory_order_acquire); ++polls) {
      polls % 64 == 0 ? static_cast<void>(::sched_yield()) : base::cpu_relax();
    }
  }
  ~Turn() { entered_.store(false, std::memory_order_release); }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  std::atomic<bool>& entered_;
};

}  // namespace lockstep
