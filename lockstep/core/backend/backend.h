#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lockstep/core/base/deadline.h"
#include "lockstep/core/base/dtype.h"

namespace lockstep {

/// Values are part of what ranks compare with each other: append only.
enum class OpKind : std::uint8_t {
  kBarrier,
  kBroadcast,
  kAllReduce,
  kReduceScatter,
  kAllGather,
  kAllocate,
  kReduce,
  kGather,
  kScatter,
  kAllToAll,
  kSend,
  kRecv,
};
/// barrier broadcast all_reduce reduce_scatter all_gather allocate reduce gather scatter all_to_all send recv.
std::string_view name_of(OpKind kind) noexcept;
/// all_reduce, reduce and reduce_scatter: what combines elements.
constexpr bool reduces(OpKind kind) noexcept {
  return kind == OpKind::kAllReduce || kind == OpKind::kReduce || kind == OpKind::kReduceScatter;
}
/// broadcast, reduce, gather and scatter: what has a root.
constexpr bool has_root(OpKind kind) noexcept {
  return kind == OpKind::kBroadcast || kind == OpKind::kReduce || kind == OpKind::kGather || kind == OpKind::kScatter;
}

/// One buffer of a coalesced operation; as input, output and count of the plain one.
struct BufferPair {
  const void* input = nullptr;
  void* output = nullptr;
  std::size_t count = 0;
};

class Packed;

/// One collective call as a value: what every rank of the group must say alike, and this rank's two buffers.
///
/// `count` (elements) per kind, with p = world size:
///   broadcast       the buffer on every rank           output = the buffer (input unused)
///   all_reduce      the buffer on every rank           input -> output, may be equal
///   reduce          the buffer on every rank           input -> output at root (unused elsewhere), may be equal
///   reduce_scatter  what one rank receives             input p*count -> output count; output may be input's own chunk
///   all_gather      what one rank contributes          input count -> output p*count; input may be output's own chunk
///   gather          what one rank contributes          input count -> output p*count at root (unused elsewhere)
///   scatter         what one rank receives             input p*count at root (unused elsewhere) -> output count
///   all_to_all      what one rank sends to one rank    input p*count -> output p*count, apart from each other
///   barrier         0
/// Unequal forms have `counts`; then `count` is their sum, and `counts` is, per kind:
///   all_gather      what each rank contributes, alike on all ranks
///   reduce_scatter  what each rank receives, alike on all ranks
///   all_to_all      what this rank sends to each; `recv_counts` is what it receives from each
struct Collective {
  OpKind kind = OpKind::kBarrier;
  DType dtype = DType::kUInt8;
  ReduceOp op = ReduceOp::kSum;
  int root = 0;
  double factor = 1;  ///< of this rank, for kPreMulSum
  std::size_t count = 0;
  const void* input = nullptr;
  void* output = nullptr;
  std::span<const std::size_t> counts = {};  ///< one a rank; read by start() only
  std::span<const std::size_t> recv_counts = {};
  std::uint64_t origin = 0;  ///< of a step of a larger operation: a digest of that one; ranks must agree on it
  std::shared_ptr<Packed> packed = {};  ///< where input and output stand for many buffers (packed.h)
  std::uint64_t sequence = 0;           ///< 1, 2, 3 ... in the group; given by the Communicator
  std::string_view label;               ///< what the buffer is, for messages; must outlive the operation
};

/// Receive from whichever rank's message comes first.
inline constexpr int kAnySource = -1;

/// One message between two ranks. It has no part in the order of collectives. Messages of one source with one tag
/// arrive in the order in which they were sent.
struct Message {
  OpKind kind = OpKind::kSend;  ///< kSend or kRecv
  DType dtype = DType::kUInt8;
  int peer = 0;  ///< destination, or source; kAnySource
  int tag = 0;
  std::size_t count = 0;   ///< elements; both sides must say the same
  void* buffer = nullptr;  ///< read only when sending
  std::uint64_t id = 0;    ///< 1, 2, 3 ... on this rank, sends and receives together; given by the Communicator
  std::string_view label;  ///< as in Collective
};

/// "all_reduce #1042 (262144 f32, sum, bucket 2: layer3.conv1.weight ..)".
std::string describe(const Collective& collective);
/// "recv #7 (262144 f32, tag 3, from rank 2)".
std::string describe(const Message& message);

/// Memory that a backend hands out: this rank's part of an allocation that every rank of the group made together.
/// Reducing in it needs no staging copy. Unmapped when the last owner goes; contents start as zero. Once the group has
/// failed, a peer that has not seen it yet may still write to it.
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

/// What a backend expects of one way to carry out an operation.
struct PathEstimate {
  std::string_view path;    ///< the backend's word for it
  double us = 0;            ///< by its model of the machine
  std::uint64_t steps = 0;  ///< pieces that follow one another
  bool chosen = false;
};

/// How the ranks of a new group find each other.
struct Meeting {
  std::string group;  ///< its name, for messages
  int rank = 0;
  int world_size = 1;
  Deadline deadline = Deadline::none();  ///< for all to have come
  /// Called every few milliseconds until then; what it throws ends the wait.
  std::function<void()> while_waiting = {};
};

/// Collectives on raw buffers for one group: the one door between a Communicator and an engine that moves bytes.
///
/// Operations are numbered by `Collective::sequence` (1, 2, 3 ...), start in that order on every rank and complete in
/// that order; messages are numbered apart and complete in any order. What is in flight is state, not a thread: it
/// moves when start, test or wait is called here, and while this thread waits in another group.
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
  /// start() and wait() in one: the way of a blocking call.
  virtual void run(const Collective& collective, const Deadline& deadline) {
    start(collective, deadline);
    wait(collective.sequence, deadline);
  }
  /// Begins a message and returns. A send needs no receive to have begun.
  virtual void start(const Message& message, Deadline deadline) = 0;
  /// As test(), for a message: true when a send's buffer may be changed, or a receive's holds the data. Of a receive
  /// from any rank, `source` is then the rank that it came from; which is told once, later calls say -1.
  virtual bool test_message(std::uint64_t id, int& source) = 0;
  /// Returns when the message is complete. Of a receive from any rank: the rank that it came from.
  virtual int wait_message(std::uint64_t id, Deadline deadline) = 0;
  /// Collective: memory of `nbytes` on every rank. It is an operation like the others and takes a sequence number.
  virtual BackendMemory allocate(std::size_t nbytes, std::uint64_t sequence, Deadline deadline) = 0;
  /// For a caller that waits for `ranks` of the group elsewhere: moves everything in flight as far as it goes. Returns
  /// one of them that has died or left, which alone is no failure of the group; -1 where all are there.
  virtual int look_after(std::span<const int> ranks) = 0;
  /// Frees every waiter of the group, here and on peers, with `cause`. Returns at once; the first cause wins.
  virtual void abort(std::string_view cause) noexcept = 0;
  /// After the group has failed: lets go of all buffers. What is still to come for them is dropped; what peers must be
  /// told reaches them first, where they take it within half a second. No operation may follow.
  virtual void close() noexcept = 0;
  /// The ways that `collective` can go (in backend memory, or any other), one of them chosen. For people.
  virtual std::vector<PathEstimate> explain(const Collective& collective, bool backend_memory) const = 0;
  /// What is known here of `rank`'s progress.
  virtual PeerState last_seen(int rank) const = 0;
};

}  // namespace lockstep
