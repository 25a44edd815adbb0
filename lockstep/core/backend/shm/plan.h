#pragma once
// Which way an operation takes: a pure function of what all ranks know alike.

#include <cstddef>
#include <cstdint>

#include "lockstep/core/backend/backend.h"

namespace lockstep::shm {

/// How an operation's bytes move. See docs/algorithms.md for steps and bytes of each.
enum class Path : std::uint8_t {
  kSync,    ///< nothing moves: barrier, allocate, zero elements
  kInline,  ///< the payload travels in the arrival line
  kFlat,    ///< every rank stages all it has; everyone reads what it needs; one hand-off
  kStaged,  ///< in pieces through the staging slots, each rank reducing its chunk of a piece; pipelined
  kDirect,  ///< straight from and into the ranks' own buffers in backend memory; two hand-offs
};
const char* name_of(Path path) noexcept;

/// What a rank's buffers are made of; alike on all ranks of a call.
struct MemoryKind {
  bool input_shared = false;  ///< the input lies in memory of Backend::allocate
  bool output_shared = false;
};

/// The constants that choices are made with.
struct Tuning {
  std::size_t direct_min_bytes = 4096;  ///< below, copying flat needs one hand-off less than kDirect
  std::size_t flat_max_bytes = 32768;   ///< per rank, of two ranks; shrinks as 2 / world_size
};

struct Plan {
  Path path = Path::kSync;
  std::uint64_t ticks = 1;
  std::size_t piece = 0;     ///< elements of a staged piece (of one rank's part, where parts are kept apart)
  bool wait_worked = false;  ///< an operation is finished only when all peers have done their share
};

/// Pure: the same arguments give the same plan on every rank.
Plan plan_for(const Collective& collective, int world_size, MemoryKind memory, const Tuning& tuning);

/// Everything that ranks must agree on for tick `index` of an operation, but for the count.
std::uint64_t signature_of(const Collective& collective, Path path, std::uint64_t index) noexcept;
/// For messages: the call that a peer's signature and count stand for.
Collective from_signature(std::uint64_t signature, std::uint64_t count, std::uint64_t sequence) noexcept;
Path path_of(std::uint64_t signature) noexcept;

}  // namespace lockstep::shm
