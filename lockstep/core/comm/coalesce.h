#pragma once
// Which buffers of a coalesced operation travel together.

#include <cstddef>
#include <span>
#include <vector>

#include "lockstep/core/base/partition.h"

namespace lockstep {

/// From here on a buffer travels alone: packing it would cost more than the hand-offs that it saves.
inline constexpr std::size_t kPackBelowBytes = 64u << 10;
/// Most that is packed together.
inline constexpr std::size_t kPackedBytes = 1u << 20;

/// Splits buffers 0, 1, 2 ... of `nbytes[i]` bytes into runs: one large buffer, or neighbouring small ones.
/// Pure, so that all ranks come to the same.
std::vector<Range> coalesce(std::span<const std::size_t> nbytes);

}  // namespace lockstep
