#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "lockstep/core/base/deadline.h"
#include "lockstep/core/base/dtype.h"

namespace lockstep {

enum class OpKind : std::uint8_t { kBarrier, kBroadcast, kAllReduce, kReduceScatter, kAllGather, kAllocate };
/// barrier broadcast all_reduce reduce_scatter all_gather allocate.
std::string_view name_of(OpKind kind) noexcept;

/// One collective call as a value: what every rank of the group must say alike, and this rank's two buffers.
///
/// `count` (elements) per kind, with p = world size:
///   broadcast       the buffer on every rank           output = the buffer (input unused)
///   all_reduce      the buffer on every rank           input -> output, may be equal
///   reduce_scatter  what one rank receives             input p*count -> output count; output may be input's own chunk
///   all_gather      what one rank contributes          input count -> output p*count; input may be output's own chunk
///   barrier         0
struct Collective {
  OpKind kind = OpKind::kBarrier;
  DType dtype = DType::kUInt8;
  ReduceOp op = ReduceOp::kSum;
  int root = 0;
  std::size_t count = 0;
  const void* input = nullptr;
  void* output = nullptr;
  std::uint64_t sequence = 0;  ///< 1, 2, 3 ... in the group; given by the Communicator
  std::string_view label;      ///< what the buffer is, for messages; must outlive the operation
};

/// "all_reduce #1042 (262144 f32, sum, bucket 2: layer3.conv1.weight ..)".
std::string describe(const Collective& collective);

/// Memory that a backend hands out: this rank's part of an allocation that every rank of the group made together.
/// Reducing in it needs no staging copy. Unmapped when the last owner goes; contents start as zero.
struct BackendMemory {
  std::shared_ptr<void> owner;
  void* data = nullptr;  ///< 4096-byte aligned
  std::size_t nbytes = 0;
};

/// Where a peer was last seen.
struct PeerState {
  OpKind kind = OpKind::kBarrier;
  std::uint64_t sequence = 0;  ///< 0: nothing started yet
  Duration age{};              ///< since it started that operation
  bool left = false;           ///< it ended the group in order
};

/// Collectives on raw buffers for one group: the one door between a Communicator and an engine that moves bytes.
///
/// Operations are numbered by `Collective::sequence` (1, 2, 3 ...), start in that order on every rank and complete in
/// that order. An operation in flight is state, not a thread: it moves when start, test or wait is called.
///
/// Thread safety: one thread at a time, except abort(), which any thread may call at any time.
/// Failure: MismatchError, PeerError, TimeoutError, AbortedError. After the first one the group is unusable; every
/// later call throws AbortedError with the first cause. Destructors do not communicate and do not throw.
class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string_view name() const noexcept = 0;
  virtual int rank() const noexcept = 0;
  virtual int world_size() const noexcept = 0;

  /// Begins an operation and returns; waits only where the number of operations in flight is at its bound.
  virtual void start(const Collective& collective, Deadline deadline) = 0;
  /// Moves everything in flight as far as it goes without waiting; true when `sequence` is complete.
  virtual bool test(std::uint64_t sequence) = 0;
  /// Returns when `sequence` is complete.
  virtual void wait(std::uint64_t sequence, Deadline deadline) = 0;
  /// Collective: memory of `nbytes` on every rank. It is an operation like the others and takes a sequence number.
  virtual BackendMemory allocate(std::size_t nbytes, std::uint64_t sequence, Deadline deadline) = 0;
  /// Frees every waiter of the group, here and on peers, with `cause`. Returns at once; the first cause wins.
  virtual void abort(std::string_view cause) noexcept = 0;
  /// What is known here of `rank`'s progress.
  virtual PeerState last_seen(int rank) const = 0;
};

}  // namespace lockstep
