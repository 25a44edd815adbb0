#pragma once
// What lies in a group's shared segment. Every word has one writer, but for Header::failure_state.
//
//   Header | RankBlock of each rank | Channel of each pair of ranks | staging of each rank | ring of each pair
//
// Staging and rings get their pages when their owner first uses them; before that they are addresses only.
//
// Note [Ticks]: an operation is one tick or, where a large buffer is staged in pieces, one tick per piece. Ticks are
// numbered 0, 1, 2 ... in the group, alike on every rank, and each passes three stages in order on every rank:
//   post    my data is in place and may be read       -> RankBlock::arrivals[tick % kArrivals].stamp = tick + 1
//   work    all ranks have posted; I did my share     -> RankBlock::worked = tick + 1
//   finish  all whom I depend on have worked; I am    -> RankBlock::released = tick + 1
//           done with everybody's memory
// A stage of tick t + 1 never overtakes the same stage of tick t, so three counters say everything: no resets, no
// shared counters, no acknowledgements beyond them.

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "lockstep/core/backend/failure.h"
#include "lockstep/core/backend/shm/plan.h"

namespace lockstep::shm {

/// Two cache lines: the hardware prefetches lines in pairs, so words of different writers lie this far apart.
inline constexpr std::size_t kSeparation = 128;

inline constexpr std::uint64_t kMagic = 0x32706574736b636fULL;  // "ockstep2"
inline constexpr std::uint64_t kArrivals = 64;                  ///< ticks that a rank may be ahead of the slowest
inline constexpr std::uint64_t kSlots = 4;                      ///< staging slots of a rank; tick t uses t % kSlots
inline constexpr std::size_t kSegmentBytes = 256u << 10;        ///< largest piece that is staged in one tick
inline constexpr std::size_t kInlineBytes = 80;                 ///< payload that travels with the arrival itself
/// A slot holds a piece of input and, behind it, this rank's chunk of the result.
inline constexpr std::size_t kSlotBytes = 2 * kSegmentBytes;
inline constexpr std::size_t kStagingBytes = kSlots * kSlotBytes;  ///< per rank, whatever the message size
inline constexpr std::size_t kRingBytes = 128u << 10;              ///< of messages on the way, per pair of ranks
inline constexpr std::size_t kMaxCpus = 1024;

/// What a rank says when it posts a tick: proof of arrival, the call for the cross-rank check, and small payloads.
struct alignas(kSeparation) Arrival {
  std::atomic<std::uint64_t> stamp;  ///< tick + 1, stored last with release
  std::uint64_t count;
  std::uint64_t released;  ///< the writer's released counter when it posted: saves readers a cache miss
  double factor;           ///< Collective::factor
  // Also read at any time by peers that describe a failure, so these are atomic on their own.
  std::atomic<std::uint64_t> signature;  ///< see signature_of() in plan.h
  std::atomic<std::uint32_t> sequence;   ///< low half of Collective::sequence
  std::atomic<std::uint32_t> time_ms;    ///< coarse monotonic clock, for "last seen"
  std::byte payload[kInlineBytes];
};
static_assert(sizeof(Arrival) == kSeparation);

struct RankBlock {
  alignas(kSeparation) std::atomic<std::uint64_t> worked;
  alignas(kSeparation) std::atomic<std::uint64_t> released;
  /// 1 + the rank that this rank is asleep for, kAnyone, or 0 when awake. Only that peer needs to ring.
  alignas(kSeparation) std::atomic<std::uint32_t> asleep_for;
  std::atomic<std::uint32_t> doorbell;                    ///< futex word; anyone who wakes this rank adds one
  alignas(kSeparation) std::atomic<std::uint32_t> ready;  ///< 1 when the fields below are valid, 2 when the rank left
  std::uint32_t pid;
  double cpu_quota;
  std::uint64_t cpus[kMaxCpus / 64];  ///< affinity mask
  Arrival arrivals[kArrivals];
};

inline constexpr std::uint32_t kAnyone = 0xffffffff;

/// Messages from one rank to another: how far the ring of the pair is written and read, in bytes since the beginning.
struct Channel {
  alignas(kSeparation) std::atomic<std::uint64_t> written;  ///< by the sender
  alignas(kSeparation) std::atomic<std::uint64_t> read;     ///< by the receiver
};

struct alignas(kSeparation) Header {
  std::uint64_t magic;
  std::uint32_t world_size;
  std::atomic<std::uint32_t> constants_ready;  ///< 1: rank 0 has written `constants`
  Constants constants;
  /// Ranks 0 and 1 pass these to each other while they measure; see measure.cpp.
  alignas(kSeparation) std::atomic<std::uint32_t> ping;
  alignas(kSeparation) std::atomic<std::uint32_t> pong;
  alignas(kSeparation) std::atomic<std::uint32_t> failure_state;  ///< 0 none, 1 being written, 2 valid
  Failure failure;
};

inline constexpr std::size_t round_up(std::size_t value, std::size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

/// Byte offsets in the segment of a group of `world_size` ranks.
struct Layout {
  std::size_t blocks;
  std::size_t channels;
  std::size_t staging;  ///< also the bytes that have pages from the start
  std::size_t rings;
  std::size_t nbytes;

  static constexpr Layout of(int world_size) {
    const auto ranks = static_cast<std::size_t>(world_size);
    const std::size_t blocks = round_up(sizeof(Header), kSeparation);
    const std::size_t channels = round_up(blocks + ranks * sizeof(RankBlock), kSeparation);
    const std::size_t staging = round_up(channels + ranks * ranks * sizeof(Channel), 4096);
    const std::size_t rings = staging + ranks * kStagingBytes;
    return {blocks, channels, staging, rings, rings + ranks * ranks * kRingBytes};
  }
};

}  // namespace lockstep::shm
