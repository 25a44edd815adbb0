#pragma once

#include <cstddef>
#include <vector>

#include "lockstep/core/base/dtype.h"

namespace lockstep::bench {

/// A buffer's exact contents: small integers that repeat with a prime period, held as one block of whole periods, so
/// that filling is a copy from cache and checking is a comparison of memory.
class Pattern {
 public:
  /// What rank `rank` contributes to a reduction with `op` among `world_size` ranks.
  static Pattern input(DType dtype, ReduceOp op, int rank, int world_size);
  /// What every rank must find afterwards; exact in every dtype.
  static Pattern reduced(DType dtype, ReduceOp op, int world_size);

  /// Writes elements [first, first + count) of the endless pattern.
  void fill(void* data, std::size_t first, std::size_t count) const;
  /// How many of `count` elements differ from elements [first, first + count) of the pattern.
  std::size_t count_wrong(const void* data, std::size_t first, std::size_t count) const;

 private:
  Pattern(DType dtype, const std::vector<double>& period);

  /// Calls visit(offset in the buffer, block, bytes) for each run of the block.
  template <typename Visit>
  void for_each_run(std::size_t first, std::size_t count, Visit visit) const;

  std::size_t element_size_;
  std::vector<std::byte> block_;
};

}  // namespace lockstep::bench
