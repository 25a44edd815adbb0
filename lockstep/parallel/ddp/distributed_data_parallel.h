#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "lockstep/parallel/group/process_group.h"

namespace torch::nn {
class Module;
}

namespace lockstep {

/// DistributedDataParallel's knobs; defaults as PyTorch's, where it has them.
struct DdpOptions {
  std::size_t bucket_cap_bytes = 25u << 20;   ///< a bucket is closed when it reaches this
  std::size_t first_bucket_bytes = 1u << 20;  ///< the first is small, so that reduction starts early
  bool broadcast_buffers = true;              ///< rank 0's buffers before each forward that synchronises
};

/// What DDP measured; times are of this rank.
struct DdpStatistics {
  std::int64_t steps = 0;                 ///< backward passes that synchronised
  Duration backward_wait{};               ///< total time that backward waited for communication at its end
  Duration last_backward_wait{};          ///< the same, of the last step
  std::int64_t gradient_copies = 0;       ///< gradients that were found outside of their slot and copied into it
  std::vector<std::size_t> bucket_bytes;  ///< sizes of the buckets, in launch order
  bool rebuilt = false;                   ///< buckets follow the order in which gradients really arrive
};

/// The engine behind DistributedDataParallel: everything that does not depend on the module's type.
class DataParallelEngine {
 public:
  DataParallelEngine(torch::nn::Module& module, std::shared_ptr<ProcessGroup> group, DdpOptions options);
  ~DataParallelEngine();
  DataParallelEngine(DataParallelEngine&&) noexcept;
  DataParallelEngine& operator=(DataParallelEngine&&) noexcept;

  void before_forward();
  void set_synchronise(bool on) noexcept;
  bool synchronises() const noexcept;
  const DdpStatistics& statistics() const noexcept;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

/// While it lives, backward passes add to the local gradients and nothing is reduced; the first backward after it
/// reduces the accumulated sum. Both the forward and the backward must be inside.
class NoSyncGuard {
 public:
  explicit NoSyncGuard(DataParallelEngine& engine) : engine_(engine), before_(engine.synchronises()) {
    engine_.set_synchronise(false);
  }
  ~NoSyncGuard() { engine_.set_synchronise(before_); }
  NoSyncGuard(const NoSyncGuard&) = delete;
  NoSyncGuard& operator=(const NoSyncGuard&) = delete;

 private:
  DataParallelEngine& engine_;
  bool before_;
};

/// Trains replicas of `module` on the ranks of `group`: parameters and buffers start equal to rank 0's, and every
/// backward leaves the average gradient in `.grad` of each parameter on every rank (Li et al., VLDB 2020).
///
///     lockstep::DistributedDataParallel ddp(net, world);   // net: any holder of a torch::nn::Module
///     loss(ddp->forward(x)).backward();                    // gradients are averaged while backward still runs
///     optimizer.step();
///
/// Collective construction: shapes and dtypes of all parameters and buffers are compared across ranks first;
/// MismatchError names the first that differs, both ranks and both shapes.
/// Gradients live in buckets of the backend's own memory: `.grad` of each parameter is a slot of a bucket, so nothing
/// is copied. Keep the module's parameters where they are (no module->to(dtype) afterwards).
/// A parameter that gets no gradient in a backward that synchronises is a UsageError that names it; ranks that had all
/// of theirs get AbortedError with the same text. A backward that an exception leaves midway is a UsageError at the
/// next forward. Gradients of gradients (create_graph) are not synchronised.
/// Threads: the thread that calls forward and backward. Failure: as Communicator; backward() throws.
/// Source: torch.nn.parallel.DistributedDataParallel; bucketing as in Li et al. 2020.
template <typename ModuleHolder>
class DistributedDataParallel {
 public:
  DistributedDataParallel(ModuleHolder module, std::shared_ptr<ProcessGroup> group, DdpOptions options = {})
      : module_(std::move(module)), engine_(*module_, std::move(group), options) {}

  /// The module's own forward, after this rank's buffers were brought up to date.
  template <typename... Args>
  auto forward(Args&&... args) {
    engine_.before_forward();
    return module_->forward(std::forward<Args>(args)...);
  }

  /// See NoSyncGuard: `auto guard = ddp->no_sync();`
  [[nodiscard]] NoSyncGuard no_sync() { return NoSyncGuard(engine_); }
  const DdpStatistics& statistics() const noexcept { return engine_.statistics(); }
  ModuleHolder& module() noexcept { return module_; }

  // So that ddp->forward(x) reads as with any module holder of libtorch.
  DistributedDataParallel* operator->() noexcept { return this; }

 private:
  ModuleHolder module_;
  DataParallelEngine engine_;
};

}  // namespace lockstep
