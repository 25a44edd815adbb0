#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "lockstep/core/base/deadline.h"
#include "lockstep/parallel/sentinel/sentinel.h"

namespace lockstep {

/// DistributedDataParallel's knobs; defaults as PyTorch's, where it has them. Alike on all ranks.
struct DdpOptions {
  /// A bucket is closed when it reaches this. 0: 4 MiB where the group's ranks share memory (an operation costs
  /// microseconds, and caches still hold the gradients of small buckets), else 25 MiB as PyTorch has it.
  std::size_t bucket_cap_bytes = 0;
  std::size_t first_bucket_bytes = 1u << 20;  ///< the first is small, so that reduction starts early
  bool broadcast_buffers = true;              ///< rank 0's buffers before each forward that synchronises
  /// Parameters that a backward does not reach are found by a walk through the graph after each forward, so they hold
  /// up no bucket. One that no rank uses keeps its gradient (or has none); one that some rank uses gets the average.
  /// One that an activation_checkpoint's function leaves out is not used either.
  bool find_unused_parameters = false;
  /// The graph is the same in every step: the first backward learns how often each parameter gets a gradient (never,
  /// once, several times in backwards inside of another) and averages at its end; the later ones rely on it. Inside
  /// join() the first backward in which every rank has an input. One that the function of an activation_checkpoint
  /// leaves out gets zero.
  bool static_graph = false;
  /// Compare the replicas and start from rank 0's values. Off: the program vouches for both.
  bool init_sync = true;
  /// Names of parameters and buffers that are left alone, as named_parameters() and named_buffers() have them.
  std::vector<std::string> ignored = {};
  /// Looks for the usual mistakes while training runs; see Sentinel.
  SentinelOptions sentinel = {};
};

/// What DDP measured; times are of this rank.
struct DdpStatistics {
  std::int64_t steps = 0;            ///< backward passes that synchronised
  Duration exposed{};                ///< total time that communication added to backward: last_wait and last_in_hooks
  Duration hidden{};                 ///< total time that buckets were on their way while backward computed
  Duration last_wait{};              ///< of the last step: waiting for buckets at the end of backward
  Duration last_in_hooks{};          ///< of the last step: launching buckets and moving bytes between two layers
  Duration last_hidden{};            ///< of the last step
  Duration last_optimizer{};         ///< step_in_backward: of the last step, the optimizers'; no part of last_wait
  Duration sentinel{};               ///< total time of the sentinel's checks, their waiting included
  std::int64_t bytes = 0;            ///< of gradients that were averaged: buckets, once per step
  std::int64_t gradient_copies = 0;  ///< gradients that were found outside of their slot and copied into it
  std::vector<std::size_t> bucket_bytes;  ///< sizes of the buckets, in launch order
  std::vector<std::string> last_unused;   ///< find_unused_parameters, static_graph: parameters without a gradient on
                                          ///< this rank in the last step
  bool rebuilt = false;                   ///< buckets follow the order in which gradients arrive
};

}  // namespace lockstep
