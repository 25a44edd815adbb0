#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "lockstep/core/backend/backend.h"
#include "lockstep/core/base/deadline.h"
#include "lockstep/core/base/dtype.h"
#include "lockstep/core/base/error.h"
#include "lockstep/core/comm/work.h"

namespace lockstep {

class Recorder;

/// Per-call options.
struct OpOptions {
  std::optional<Duration> timeout = {};  ///< nothing: the communicator's default
  std::string_view label = {};           ///< what the buffer is, for messages; must outlive the operation
};

struct CommunicatorOptions {
  std::string name = "world";                    ///< the group's name in messages
  Duration timeout = std::chrono::seconds(300);  ///< default deadline of each operation
  std::size_t recorder_capacity = 256;           ///< last operations kept for diagnosis
  /// On failure the recorder writes flight_<name>_rank<r>.json here; empty: nowhere.
  std::string dump_directory = {};
};

/// Collective communication of one group of ranks, on raw memory.
///
/// Order:   the k-th call on every rank must be the same operation with the same count, dtype, reduction and root;
///          otherwise MismatchError, on every rank, naming both sides.
/// Results: bit-identical on all ranks; contributions are combined in rank order.
/// Memory:  any; what allocate() returned is reduced without a copy.
/// Threads: one thread at a time (the caller's), except abort().
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

  // Blocking forms: return when the result is in place. `count` is elements.

  /// Returns when every rank has called it.
  void barrier(const OpOptions& options = {});
  /// Copies `count` elements of `root`'s buffer into everyone's.
  void broadcast(void* data, std::size_t count, DType dtype, int root, const OpOptions& options = {});
  /// output[i] = input[i] of rank 0 op input[i] of rank 1 op ...; input == output is in place.
  void all_reduce(const void* input, void* output, std::size_t count, DType dtype, ReduceOp op = ReduceOp::kSum,
                  const OpOptions& options = {});
  /// input holds world_size * count elements; rank r receives the reduction of everyone's r-th chunk.
  void reduce_scatter(const void* input, void* output, std::size_t count, DType dtype, ReduceOp op = ReduceOp::kSum,
                      const OpOptions& options = {});
  /// output holds world_size * count elements: rank r's `count` elements at r * count.
  void all_gather(const void* input, void* output, std::size_t count, DType dtype, const OpOptions& options = {});

  // The same, started and not waited for. Buffers must stay until the Work is done.

  Work barrier_async(const OpOptions& options = {});
  Work broadcast_async(void* data, std::size_t count, DType dtype, int root, const OpOptions& options = {});
  Work all_reduce_async(const void* input, void* output, std::size_t count, DType dtype, ReduceOp op = ReduceOp::kSum,
                        const OpOptions& options = {});
  Work reduce_scatter_async(const void* input, void* output, std::size_t count, DType dtype,
                            ReduceOp op = ReduceOp::kSum, const OpOptions& options = {});
  Work all_gather_async(const void* input, void* output, std::size_t count, DType dtype, const OpOptions& options = {});

  /// Collective: every rank asks for the same number of bytes. See BackendMemory.
  BackendMemory allocate(std::size_t nbytes, const OpOptions& options = {});

  /// Moves operations in flight as far as they go without waiting. Call it between pieces of computation.
  void progress();

  /// Ends the group from any thread: every waiter, here and on peers, gets AbortedError with `cause`.
  void abort(std::string_view cause) noexcept;

 private:
  friend class Work;
  Communicator(std::unique_ptr<Backend> backend, CommunicatorOptions options);

  /// Numbers, records and begins a call; returns its deadline.
  Deadline begin(Collective& collective, const OpOptions& options);
  void run(Collective collective, const OpOptions& options);
  Work run_async(Collective collective, const OpOptions& options);
  bool test(std::uint64_t sequence);
  void wait(std::uint64_t sequence, Deadline deadline);
  /// Poisons the communicator with the exception in flight, writes the recorder's file, rethrows.
  [[noreturn]] void fail();
  void require_usable() const;

  std::unique_ptr<Backend> backend_;
  CommunicatorOptions options_;
  std::unique_ptr<Recorder> recorder_;
  std::uint64_t sequence_ = 0;
  std::string first_cause_;  // Empty while the communicator is usable.
};

}  // namespace lockstep
