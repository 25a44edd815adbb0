#pragma once
// Who is in an engine: its caller, or a thread that waits in another group and looks in on the way.

#include <sched.h>

#include "lockstep/core/backend/shm/engine.h"
#include "lockstep/core/backend/shm/waiting.h"

namespace lockstep::shm {

/// Held by a caller for the length of a call. A thread that looks in holds the engine for a step, so this waits for no
/// longer than that.
class Engine::Entry {
 public:
  explicit Entry(Engine& engine) : engine_(engine) {
    for (int polls = 1; engine_.entered_.exchange(true, std::memory_order_acquire); ++polls) {
      polls % 64 == 0 ? static_cast<void>(::sched_yield()) : cpu_relax();
    }
  }
  ~Entry() { engine_.entered_.store(false, std::memory_order_release); }
  Entry(const Entry&) = delete;
  Entry& operator=(const Entry&) = delete;

 private:
  Engine& engine_;
};

}  // namespace lockstep::shm
