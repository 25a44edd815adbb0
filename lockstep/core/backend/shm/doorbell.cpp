#include "lockstep/core/backend/shm/doorbell.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>

namespace lockstep::shm {

void ring(RankBlock& block) noexcept {
  block.asleep_for.store(0, std::memory_order_relaxed);
  block.doorbell.fetch_add(1, std::memory_order_release);
  ::syscall(SYS_futex, &block.doorbell, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

}  // namespace lockstep::shm
