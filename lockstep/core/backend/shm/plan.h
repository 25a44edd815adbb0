#pragma once
// Which way an operation takes: a pure function of what all ranks know alike.

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "lockstep/core/backend/backend.h"

namespace lockstep::shm {

/// How an operation's bytes move. See docs/algorithms.md for steps and bytes of each.
enum class Path : std::uint8_t {
  kSync,    ///< nothing moves: barrier, allocate, zero elements
  kInline,  ///< the payload travels in the arrival line
  kFlat,    ///< every rank stages all it has, in pieces; everyone reads what it needs; one hand-off a piece
  kStaged,  ///< all_reduce, reduce: the same, but each rank combines its chunk of a piece and hands the result on
  kDirect,  ///< straight from and into the ranks' own buffers in backend memory; two hand-offs
};
inline constexpr int kPathCount = 5;
const char* name_of(Path path) noexcept;

/// What a rank's buffers are made of; alike on all ranks of a call, but for buffers that only the root has.
struct MemoryKind {
  bool input_shared = false;  ///< the input lies in memory of Backend::allocate
  bool output_shared = false;
};

/// What moving data between two ranks costs here; measured when the first group of a process forms (measure.h).
struct Constants {
  double handoff_ns = 120;      ///< a cache line from one rank to another, one way
  double read_ns_per_kb = 25;   ///< combining 1024 bytes that another rank has just written
  double write_ns_per_kb = 20;  ///< copying 1024 bytes to where another rank has just read
};
/// Where ranks share CPUs a hand-off is a turn of the scheduler: fewer steps beat fewer bytes.
inline constexpr Constants kSharedCpus{4000, 30, 25};

/// Below, a second hand-off costs more than the copy that it saves, whatever the model says.
inline constexpr std::size_t kDirectMinBytes = 1024;

/// Unequal all_to_all: a rank's sizes are known to no other rank, so that nothing may be planned by them. It goes
/// staged, but what lies in backend memory is read there (Operation::reads_there).
bool only_known_here(const Collective& collective) noexcept;
/// Whether where the buffers lie matters at all, by what all ranks know alike.
bool asks_for_memory(const Collective& collective, int world_size) noexcept;

/// Rank's part in finishing an operation: whose work it must wait for after its own.
enum class Awaits : std::uint8_t { kNobody, kEveryone, kEveryoneAtRoot };

struct Plan {
  Path path = Path::kSync;
  std::uint64_t ticks = 1;
  std::size_t piece = 0;  ///< elements of a staged piece (of one rank's part, where parts are kept apart); 0: all
  Awaits awaits = Awaits::kNobody;
  bool open = false;  ///< how many ticks follow is known when everyone's first tick has arrived
};

/// Model of the time (ns) that an operation takes on each path, by the slowest rank; negative where it can't go there.
///   hand-offs * handoff + bytes copied to staging * write + bytes read from peers * read
using Costs = std::array<double, kPathCount>;
Costs costs_of(const Collective& collective, int world_size, MemoryKind memory, const Constants& constants);

/// The path of least cost. Pure: the same arguments give the same plan on every rank.
Plan plan_for(const Collective& collective, int world_size, MemoryKind memory, const Constants& constants);

/// The same for people, in the order of Path.
std::vector<PathEstimate> estimates_of(const Collective& collective, int world_size, bool backend_memory,
                                       const Constants& constants);

/// Everything that ranks must agree on for tick `index` of an operation, but for the count.
std::uint64_t signature_of(const Collective& collective, Path path, std::uint64_t index) noexcept;
/// For messages: the call that a peer's signature and count stand for.
Collective from_signature(std::uint64_t signature, std::uint64_t count, std::uint64_t sequence) noexcept;
Path path_of(std::uint64_t signature) noexcept;

}  // namespace lockstep::shm
