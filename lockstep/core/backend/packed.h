#pragma once
// Small buffers of a coalesced operation that travel as one.

#include <cstddef>
#include <span>
#include <vector>

#include "lockstep/core/backend/backend.h"

namespace lockstep {

/// The one buffer that stands for several, in the order that the operation's own chunks ask for:
///   all_reduce, broadcast   [b0 | b1 | ...]
///   all_gather              in [b0 | b1 | ...], out the same of every rank, one after the other
///   reduce_scatter          in for every rank its chunk of [b0 | b1 | ...], out [b0 | b1 | ...]
/// A backend packs when it is the operation's turn to read and unpacks before the operation counts as complete, so that
/// operations on the same buffers see each other's results in their order.
///
/// Thread safety: as Backend.
class Packed {
 public:
  /// `collective` says what is done; of its buffers nothing is used.
  Packed(const Collective& collective, std::span<const BufferPair> buffers, const Backend& backend);

  std::size_t count() const noexcept { return count_; }
  const void* input() const noexcept { return input_.data(); }
  void* output() noexcept { return output_.empty() ? input_.data() : output_.data(); }

  void pack();
  void unpack();

  struct Buffer {
    const void* input;
    std::size_t input_nbytes;
    void* output;
    std::size_t output_nbytes;
  };
  std::size_t size() const noexcept { return buffers_.size(); }
  /// What the operation reads and writes of the caller's i-th buffer.
  Buffer buffer(std::size_t i) const noexcept;

 private:
  template <typename Move>
  void for_each_part(std::size_t parts, std::byte* packed, Move move) const;

  std::size_t width_;
  bool is_broadcast_;
  bool reads_;  // Not where somebody else's broadcast arrives.
  std::vector<BufferPair> buffers_;
  std::size_t count_ = 0;
  std::size_t input_parts_;
  std::size_t output_parts_;
  std::vector<std::byte> input_;
  std::vector<std::byte> output_;
};

}  // namespace lockstep
