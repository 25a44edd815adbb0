#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "apps/lockstep/bench/options.h"

namespace lockstep::bench {

/// What is measured: one rank of a group that can do collectives. Lockstep and each peer is one of these, so that all
/// of them run through the same loop. Counts are elements of the sweep's dtype, as in Communicator.
class Engine {
 public:
  virtual ~Engine() = default;
  virtual int rank() const = 0;
  /// Memory of the kind that is being measured, page-aligned; lives as long as the engine. Collective.
  virtual void* allocate(std::size_t nbytes) = 0;

  // The root is rank 0. What only the root has is there on every rank; elsewhere its contents mean nothing.
  virtual void barrier() = 0;
  virtual void broadcast(void* data, std::size_t count) = 0;
  virtual void all_reduce(void* data, std::size_t count) = 0;  ///< in place
  virtual void reduce(const void* input, void* output, std::size_t count) = 0;
  virtual void reduce_scatter(const void* input, void* output, std::size_t count) = 0;
  virtual void all_gather(const void* input, void* output, std::size_t count) = 0;
  virtual void gather(const void* input, void* output, std::size_t count) = 0;
  virtual void scatter(const void* input, void* output, std::size_t count) = 0;
  virtual void all_to_all(const void* input, void* output, std::size_t count) = 0;
  /// To the next rank round the ring and from the one before, both at once.
  virtual void sendrecv(const void* input, void* output, std::size_t count) = 0;

  /// all[r * count + i] = mine[i] of rank r; for the loop's own book-keeping, never timed.
  virtual void gather_doubles(const double* mine, double* all, std::size_t count) = 0;
};

/// One message size of a sweep.
struct SizePlan {
  std::size_t bytes = 0;  ///< of the whole vector
  std::size_t count = 0;  ///< elements, as the operation's argument
};

/// One line of the result. Times are microseconds of the slowest rank: for each sample the largest of all ranks' times,
/// then the statistic over the samples. Trivially copyable: workers hand it over in shared memory.
struct SizeResult {
  SizePlan size;
  double min_us = 0;
  double p50_us = 0;
  double p99_us = 0;
  std::uint64_t samples = 0;
  std::uint64_t wrong = 0;  ///< wrong elements over all ranks and both checked calls
};

/// min, min * factor, ... up to max, in whole elements per rank; sizes that come out equal are listed once. The first
/// size is at least one element. For barrier: one size of zero bytes.
std::vector<SizePlan> plan_sizes(const SweepOptions& options);

/// Measures every size of the plan on the calling rank; collective. `on_result` is called on every rank, in order.
void run_sweep(Engine& engine, const SweepOptions& options, const std::function<void(const SizeResult&)>& on_result);

/// Bytes that cross the bus per byte of the vector, nccl-tests' factor for busbw: 2(p-1)/p for all_reduce; (p-1)/p
/// where each rank has or gets a part of the vector; 1 for broadcast, reduce and sendrecv.
double bus_factor(OpKind op, int world_size);

}  // namespace lockstep::bench
