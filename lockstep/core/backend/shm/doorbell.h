#pragma once
// Waking a rank that sleeps (engine_wait.cpp).

#include "lockstep/core/backend/shm/layout.h"
#include "lockstep/core/backend/shm/segment.h"

namespace lockstep::shm {

/// Wakes a rank that may be asleep.
void ring(RankBlock& block) noexcept;

/// After this rank has published something: wakes those who sleep until it does.
inline void wake_those_who_wait(const Segment& segment) noexcept {
  const auto me = static_cast<std::uint32_t>(segment.rank() + 1);
  for (int rank = 0; rank < segment.world_size(); ++rank) {
    RankBlock& block = segment.block(rank);
    const std::uint32_t awaited = block.asleep_for.load(std::memory_order_relaxed);
    if (awaited == me || awaited == kAnyone) ring(block);
  }
}

}  // namespace lockstep::shm
