#pragma once
// One operation over several hosts as operations inside a host and across hosts: pure. See docs/algorithms.md for the
// bytes that cross the wire.

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "lockstep/core/backend/backend.h"
#include "lockstep/core/backend/hier/topology.h"

namespace lockstep::hier {

/// Of the caller's buffer, each carrier's part of one pipelined segment.
inline constexpr std::size_t kShardBytes = 1u << 20;
/// Segments that are inside the host, or on the wire, before the first is finished.
inline constexpr std::size_t kSegmentsInFlight = 6;

/// Who carries a step out.
enum class Engine : std::uint8_t {
  kInner,  ///< the ranks of this host
  kCross,  ///< this carrier's counterparts on the other hosts
  kFlat,   ///< all ranks, over the network
  kHere,   ///< this rank alone: a copy, or a scaling
};
inline constexpr std::size_t kEngineCount = 4;

/// A buffer of a step: a byte in one of the operation's three.
struct Place {
  enum class Where : std::uint8_t { kNowhere, kInput, kOutput, kTemporary } where = Where::kNowhere;
  std::size_t offset = 0;
};

struct Step {
  Engine engine = Engine::kInner;
  OpKind kind = OpKind::kBarrier;  ///< of kHere: kAllReduce scales `output`, anything else copies
  ReduceOp op = ReduceOp::kSum;
  int root = 0;  ///< in the engine's group
  std::size_t count = 0;
  std::vector<std::size_t> counts;
  Place input;
  Place output;
  std::array<int, 2> after = {-1, -1};  ///< steps that must be complete before this one begins
  bool behind_cross = false;            ///< some rank of the engine's has something to do across hosts before it
  double factor = 1;                    ///< of this rank, for kPreMulSum; of a scaling
};

/// Every engine begins its steps in the order of the list, which is the same on all ranks that share the engine.
struct Program {
  std::vector<Step> steps;
  std::size_t temporary_nbytes = 0;
};

/// `collective` as this rank of the topology carries it out; its buffers are not looked at. `offsets`: where each
/// rank's part begins (elements), and the end; empty where parts are equal.
Program program_for(const Collective& collective, const std::vector<std::size_t>& offsets, const Topology& topology);

}  // namespace lockstep::hier
