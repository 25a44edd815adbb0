#pragma once
// Which rank sends which bytes to whom: pure. See docs/design/0010-between-hosts.md.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "lockstep/core/backend/backend.h"

namespace lockstep::wire {

inline constexpr std::size_t kInlineBytes = 2048;     ///< for one receiver, at most: it rides in the header
inline constexpr std::size_t kPieceBytes = 1u << 20;  ///< of the caller's buffer, in one piece of a reduction
inline constexpr std::size_t kPiecesInFlight = 4;     ///< of all operations of a group together; see docs/design/0016
inline constexpr std::size_t kWireBytesPerUs = 125;   ///< 1 Gbit/s, which the choice of an algorithm assumes

/// What the group measured when it formed; the same on every rank.
struct Constants {
  double latency_us = 50;  ///< of a small message, one way
};

enum class Algorithm : std::uint8_t {
  kDirect,   ///< one exchange: every byte goes from where it is to where it is needed
  kTwoStep,  ///< two exchanges: chunks to their ranks, then from there
};
/// all_reduce, reduce and broadcast: what both algorithms can do.
constexpr bool has_two_forms(OpKind kind) noexcept {
  return kind == OpKind::kAllReduce || kind == OpKind::kReduce || kind == OpKind::kBroadcast;
}
/// direct, two_step.
std::string_view name_of(Algorithm algorithm) noexcept;

struct Plan {
  Algorithm algorithm = Algorithm::kDirect;
  bool rides_in_header = false;    ///< the first exchange travels in the headers
  std::size_t piece = 0;           ///< elements of the buffer (or of one rank's part) in one piece; 0: all
  std::uint64_t pieces = 1;        ///< 0: nothing moves, the ranks only meet
  std::size_t scratch_nbytes = 0;  ///< of each piece in flight
};

/// What every rank of the group answers alike. `collective` needs no buffers.
Plan plan_for(const Collective& collective, int world_size, const Constants& constants);

/// What `algorithm` takes, in us.
double model_us(const Collective& collective, Algorithm algorithm, int world_size, const Constants& constants);

enum class Where : std::uint8_t { kInput, kOutput, kScratch };

/// Bytes in one of the three buffers.
struct Part {
  Where where = Where::kInput;
  std::size_t offset = 0;
  std::size_t nbytes = 0;
  friend bool operator==(const Part&, const Part&) = default;
};

/// One span to each rank and one from each, at most; this rank's own pair is a copy.
struct Exchange {
  std::vector<Part> sends;  ///< a rank each; nbytes 0: nothing
  std::vector<Part> recvs;
};

/// One piece of an operation on one rank: exchange, combine, exchange.
struct Piece {
  Exchange first;
  /// What came in `first`, and this rank's own part, in rank order, become `result`. Nothing to combine where empty.
  Part own;
  Part result;
  Exchange second;  ///< empty vectors: none
};

/// Where each rank's part begins in the buffer that holds everyone's (elements), and the end: p + 1 numbers.
using Offsets = std::span<const std::size_t>;

/// The call as one rank sees it.
struct View {
  const Collective& collective;
  int rank = 0;
  int world_size = 1;
  Offsets offsets = {};       ///< unequal forms: of `counts`; else empty
  Offsets recv_offsets = {};  ///< unequal all_to_all: of `recv_counts`
};

/// Piece `index` of an operation.
Piece piece_of(const View& view, const Plan& plan, std::uint64_t index);

}  // namespace lockstep::wire
