#pragma once
// What an operation reads and writes on one rank.

#include <cstddef>
#include <span>
#include <vector>

#include "lockstep/core/backend/backend.h"

namespace lockstep {

/// Bytes that an operation reads and writes on this rank.
struct Extent {
  std::size_t input = 0;
  std::size_t output = 0;
};
Extent extent_of(const Collective& collective, int rank, int world_size);

/// True where the later operation must not begin before the earlier one is finished: one writes what the other reads or
/// writes.
bool conflict(const Collective& later, const Extent& later_extent, const Collective& earlier,
              const Extent& earlier_extent);

/// Where each rank's part begins, and the end: one number more than there are ranks. Empty where `counts` is.
std::vector<std::size_t> offsets_of(std::span<const std::size_t> counts);

/// Zeroed memory of this process, on whole pages. Throws SystemError.
BackendMemory allocate_host_memory(std::size_t nbytes);

}  // namespace lockstep
