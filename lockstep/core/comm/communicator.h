#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lockstep/core/backend/backend.h"
#include "lockstep/core/backend/mpi/handle.h"
#include "lockstep/core/base/deadline.h"
#include "lockstep/core/base/dtype.h"
#include "lockstep/core/base/error.h"
#include "lockstep/core/comm/work.h"

namespace lockstep {

class Recorder;
class Store;

/// Per-call options.
struct OpOptions {
  std::optional<Duration> timeout = {};  ///< nothing: the communicator's default
  std::string_view label = {};           ///< what the buffer is, for messages; must outlive the operation
};

/// What a reduction does; a ReduceOp converts to it.
struct Reduction {
  ReduceOp op = ReduceOp::kSum;
  double factor = 1;  ///< of this rank, for kPreMulSum

  constexpr Reduction(ReduceOp what = ReduceOp::kSum) : op(what) {}
  constexpr Reduction(ReduceOp what, double by) : op(what), factor(by) {}
};
/// The sum of what the ranks contribute, each times its own factor (NCCL's PreMulSum). Floating dtypes only.
constexpr Reduction premul_sum(double factor) { return {ReduceOp::kPreMulSum, factor}; }

/// Elements of each rank, in rank order.
using Counts = std::span<const std::size_t>;

/// How a group reaches the ranks of other hosts.
struct NetworkOptions {
  std::string engine = "auto";  ///< auto, gloo, mpi
  std::string interface = {};   ///< network interface by name; empty: the one that routes to `route_to`
  std::string route_to = {};    ///< a host that all ranks reach; empty: all ranks are on this host
  MpiHandle mpi = {};           ///< of the mpi engine: a communicator of the world's ranks; by default MPI_COMM_WORLD
};

struct CommunicatorOptions {
  std::string name = "world";                    ///< the group's name in messages
  Duration timeout = std::chrono::seconds(300);  ///< default deadline of each operation
  std::size_t recorder_capacity = 256;           ///< last operations kept; rounded up to a power of two
  /// On failure the recorder writes flight_<name>_rank<r>.json here; empty: nowhere.
  std::string dump_directory = {};
  std::vector<int> global_ranks = {};      ///< of the members, in the world; empty: the group is the world
  std::string backend = "auto";            ///< of the group, as asked for, and of its subgroups
  NetworkOptions network = {};             ///< the same
  std::string backend_reason = {};         ///< for people
  std::vector<std::string> host_ids = {};  ///< a rank each: equal where ranks share memory; empty: not known
  std::shared_ptr<Store> store = nullptr;  ///< where subgroups meet; null: none can be made
};

/// Collective communication of one group of ranks, on raw memory.
///
/// Order:   the k-th call on every rank must be the same operation with the same count, dtype, reduction and root;
///          otherwise MismatchError, on every rank, naming both sides. send and recv stand outside of that order.
/// Results: bit-identical on all ranks; contributions are combined in rank order.
/// Memory:  any; what allocate() returned is reduced without a copy. All ranks of a call pass the same kind.
///          Input and output are one buffer (in place) or do not overlap.
/// Threads: one thread at a time (the caller's), except abort(). A thread that waits in one group moves what it has
///          started in its other groups as well.
/// Failure: UsageError before any byte moves. PeerError, TimeoutError, MismatchError or AbortedError poison the
///          communicator: every later call throws AbortedError with the first cause. It is never repaired; build a new
///          one.
/// Lifetime: held by shared_ptr; each Work holds one.
class Communicator : public std::enable_shared_from_this<Communicator> {
 public:
  static std::shared_ptr<Communicator> create(std::unique_ptr<Backend> backend, CommunicatorOptions options);
  ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int rank() const noexcept;
  int world_size() const noexcept;
  const std::string& name() const noexcept;
  std::string_view backend_name() const noexcept;
  /// Why this backend: "4 ranks on 2 hosts: shared memory inside each, gloo between them". Empty where nobody chose.
  const std::string& backend_reason() const noexcept { return options_.backend_reason; }
  const CommunicatorOptions& options() const noexcept { return options_; }
  /// The world's rank of a member.
  int global_rank(int rank) const noexcept;
  /// How many subgroups were counted under `key` before; all members of a subgroup come to the same number, which
  /// makes its name in the store unique. For subgroup.h.
  std::uint64_t count_subgroup(const std::string& key) { return subgroups_[key]++; }
  /// The ways that an operation can go here, with the time that each takes by the backend's model. For people.
  std::vector<PathEstimate> explain(const Collective& collective, bool backend_memory) const;

  // Blocking forms: return when the result is in place. `count` is elements.

  /// Returns when every rank has called it.
  void barrier(const OpOptions& options = {});
  /// Copies `count` elements of `root`'s buffer into everyone's.
  void broadcast(void* data, std::size_t count, DType dtype, int root, const OpOptions& options = {});
  /// output[i] = input[i] of rank 0 op input[i] of rank 1 op ...; input == output is in place.
  void all_reduce(const void* input, void* output, std::size_t count, DType dtype, Reduction op = {},
                  const OpOptions& options = {});
  /// The same, at `root` only; `output` is not touched elsewhere and may be null.
  void reduce(const void* input, void* output, std::size_t count, DType dtype, int root, Reduction op = {},
              const OpOptions& options = {});
  /// input holds world_size * count elements; rank r receives the reduction of everyone's r-th chunk.
  void reduce_scatter(const void* input, void* output, std::size_t count, DType dtype, Reduction op = {},
                      const OpOptions& options = {});
  /// Unequal: rank r receives counts[r] elements, from the sum of counts[0] .. counts[r - 1] on.
  void reduce_scatter(const void* input, void* output, Counts counts, DType dtype, Reduction op = {},
                      const OpOptions& options = {});
  /// output holds world_size * count elements: rank r's `count` elements at r * count.
  void all_gather(const void* input, void* output, std::size_t count, DType dtype, const OpOptions& options = {});
  /// Unequal: rank r contributes counts[r] elements, which come one after the other in output.
  void all_gather(const void* input, void* output, Counts counts, DType dtype, const OpOptions& options = {});
  /// As all_gather, at `root` only; `output` may be null elsewhere.
  void gather(const void* input, void* output, std::size_t count, DType dtype, int root, const OpOptions& options = {});
  /// input of `root` (null elsewhere) holds world_size * count elements; rank r receives those from r * count on.
  void scatter(const void* input, void* output, std::size_t count, DType dtype, int root,
               const OpOptions& options = {});
  /// Chunk d of input (count elements) goes to rank d; chunk s of output comes from rank s. Not in place.
  void all_to_all(const void* input, void* output, std::size_t count, DType dtype, const OpOptions& options = {});
  /// Unequal: chunk d of input has send_counts[d] elements, chunk s of output recv_counts[s], one after the other.
  /// MismatchError where a rank sends another number than the receiver expects.
  void all_to_all(const void* input, Counts send_counts, void* output, Counts recv_counts, DType dtype,
                  const OpOptions& options = {});

  /// Sends to `peer`; returns when `data` may be changed, which for a large message is when the receiver takes it.
  /// `tag` is 0 or more; messages of one tag keep their order.
  void send(const void* data, std::size_t count, DType dtype, int peer, int tag = 0, const OpOptions& options = {});
  /// Receives exactly `count` elements from `source` (or kAnySource) and returns the source. A message of another size
  /// or dtype is a MismatchError on both ranks. From kAnySource over a network, a rank that is gone, in order or not,
  /// is a PeerError: it might have been the sender.
  int recv(void* data, std::size_t count, DType dtype, int source, int tag = 0, const OpOptions& options = {});

  // Many buffers, one operation: small ones travel packed together. The list is copied; the buffers must stay.

  void broadcast_coalesced(std::span<const BufferPair> buffers, DType dtype, int root, const OpOptions& options = {});
  void all_reduce_coalesced(std::span<const BufferPair> buffers, DType dtype, Reduction op = {},
                            const OpOptions& options = {});
  void reduce_scatter_coalesced(std::span<const BufferPair> buffers, DType dtype, Reduction op = {},
                                const OpOptions& options = {});
  void all_gather_coalesced(std::span<const BufferPair> buffers, DType dtype, const OpOptions& options = {});

  // The same, started and not waited for. Buffers must stay until the Work is done; counts need not.

  Work barrier_async(const OpOptions& options = {});
  Work broadcast_async(void* data, std::size_t count, DType dtype, int root, const OpOptions& options = {});
  Work all_reduce_async(const void* input, void* output, std::size_t count, DType dtype, Reduction op = {},
                        const OpOptions& options = {});
  Work reduce_async(const void* input, void* output, std::size_t count, DType dtype, int root, Reduction op = {},
                    const OpOptions& options = {});
  Work reduce_scatter_async(const void* input, void* output, std::size_t count, DType dtype, Reduction op = {},
                            const OpOptions& options = {});
  Work reduce_scatter_async(const void* input, void* output, Counts counts, DType dtype, Reduction op = {},
                            const OpOptions& options = {});
  Work all_gather_async(const void* input, void* output, std::size_t count, DType dtype, const OpOptions& options = {});
  Work all_gather_async(const void* input, void* output, Counts counts, DType dtype, const OpOptions& options = {});
  Work gather_async(const void* input, void* output, std::size_t count, DType dtype, int root,
                    const OpOptions& options = {});
  Work scatter_async(const void* input, void* output, std::size_t count, DType dtype, int root,
                     const OpOptions& options = {});
  Work all_to_all_async(const void* input, void* output, std::size_t count, DType dtype, const OpOptions& options = {});
  Work all_to_all_async(const void* input, Counts send_counts, void* output, Counts recv_counts, DType dtype,
                        const OpOptions& options = {});
  Work send_async(const void* data, std::size_t count, DType dtype, int peer, int tag = 0,
                  const OpOptions& options = {});
  Work recv_async(void* data, std::size_t count, DType dtype, int source, int tag = 0, const OpOptions& options = {});
  Work broadcast_coalesced_async(std::span<const BufferPair> buffers, DType dtype, int root,
                                 const OpOptions& options = {});
  Work all_reduce_coalesced_async(std::span<const BufferPair> buffers, DType dtype, Reduction op = {},
                                  const OpOptions& options = {});
  Work reduce_scatter_coalesced_async(std::span<const BufferPair> buffers, DType dtype, Reduction op = {},
                                      const OpOptions& options = {});
  Work all_gather_coalesced_async(std::span<const BufferPair> buffers, DType dtype, const OpOptions& options = {});

  /// Collective: every rank asks for the same number of bytes, below 1 TiB; 2^24 times at most. See BackendMemory.
  BackendMemory allocate(std::size_t nbytes, const OpOptions& options = {});

  /// Moves operations in flight as far as they go without waiting. Call it between pieces of computation.
  void progress();

  /// For a caller that waits elsewhere for some ranks of the group: progress(), and throws what ended the group, or
  /// PeerError where one of `ranks` has died or left. For subgroup.h.
  void look_after(std::span<const int> ranks);

  /// Ends the group from any thread: every waiter, here and on peers, gets AbortedError with `cause`. Buffers of what
  /// is in flight stay in use until a call of the group has thrown.
  void abort(std::string_view cause) noexcept;
  /// The same for a thread that uses the group, and is about to throw an error of its own: buffers are its own again.
  void end(std::string_view cause) noexcept;

 private:
  friend class Work;
  Communicator(std::unique_ptr<Backend> backend, CommunicatorOptions options);

  /// Checks, numbers, records and begins a call; returns its deadline.
  Deadline begin(Collective& collective, const OpOptions& options);
  Deadline begin(Message& message, const OpOptions& options);
  void run(Collective&& collective, const OpOptions& options);
  Work run_async(Collective&& collective, const OpOptions& options);
  Work coalesced(Collective collective, std::span<const BufferPair> buffers, const OpOptions& options);
  void check(const Collective& collective) const;

  bool test(std::uint64_t sequence);
  void wait(std::uint64_t sequence, Deadline deadline);
  bool test_message(std::uint64_t id, int& source);
  int wait_message(std::uint64_t id, Deadline deadline);
  /// Poisons the communicator with the exception in flight, writes the recorder's file, rethrows.
  [[noreturn]] void fail();
  void require_usable() const;
  std::string who() const;

  std::unique_ptr<Backend> backend_;
  CommunicatorOptions options_;
  std::unique_ptr<Recorder> recorder_;
  std::uint64_t sequence_ = 0;
  std::uint64_t messages_ = 0;
  std::map<std::string, std::uint64_t> subgroups_;
  std::string first_cause_;  // Empty while the communicator is usable.
};

}  // namespace lockstep
