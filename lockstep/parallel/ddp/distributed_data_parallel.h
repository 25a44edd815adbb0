#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "lockstep/parallel/ddp/comm_hook.h"
#include "lockstep/parallel/ddp/engine.h"
#include "lockstep/parallel/ddp/join.h"
#include "lockstep/parallel/ddp/output_tensors.h"

namespace lockstep {

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
/// is copied. Buckets follow the order in which gradients arrive from the first backward on: it is read off the graph.
/// Keep the module's parameters where they are (no module->to(dtype) afterwards). They may be frozen and unfrozen
/// between two steps, on all ranks alike.
/// A parameter that gets no gradient in a backward that synchronises is a UsageError that names it, unless
/// find_unused_parameters or static_graph is set; ranks that had all of theirs get AbortedError with the same text. A
/// backward that an exception leaves midway is a UsageError at the next forward. Gradients of gradients (create_graph)
/// are not synchronised.
/// Threads: the thread that calls forward and backward. Failure: as Communicator; backward() throws.
/// Source: torch.nn.parallel.DistributedDataParallel; bucketing as in Li et al. 2020.
template <typename ModuleHolder>
class DistributedDataParallel {
 public:
  DistributedDataParallel(ModuleHolder module, std::shared_ptr<ProcessGroup> group, DdpOptions options = {})
      : module_(std::move(module)),
        engine_(std::make_unique<DataParallelEngine>(*module_, std::move(group), std::move(options))) {}

  /// The module's own forward, after this rank's buffers were brought up to date. The loss must be computed from the
  /// tensors that it returns; see ddp::append_tensors for where they are looked for.
  template <typename... Args>
  auto forward(Args&&... args) {
    // What is evaluated may be the same on all ranks: the sentinel looks at samples that are trained on.
    engine_->before_forward(module_->is_training() ? ddp::tensors_in(args...) : std::vector<at::Tensor>());
    auto outputs = module_->forward(std::forward<Args>(args)...);
    engine_->after_forward(ddp::tensors_in(outputs));
    return outputs;
  }

  /// See NoSyncGuard: `auto guard = ddp->no_sync();`
  [[nodiscard]] NoSyncGuard no_sync() { return NoSyncGuard(*engine_); }
  /// Collective, between forward and backward: the next backward that synchronises averages over the samples of all
  /// ranks rather than over ranks, this rank's gradient being the mean over `samples` of its own. Not with layers whose
  /// backward adds over ranks (SyncBatchNorm): there multiply the loss by samples * world_size / samples of all ranks.
  /// UsageError where no rank has a sample.
  void average_over_samples(std::int64_t samples) { engine_->average_over_samples(samples); }
  /// Collective, before the first backward, once: `hook` carries the buckets. See CommHook.
  void register_comm_hook(std::shared_ptr<CommHook> hook) { engine_->register_comm_hook(std::move(hook)); }
  /// Collective: `loop` may have fewer inputs on some ranks; see lockstep::join.
  void join(const std::function<void()>& loop, const JoinOptions& options = {}) {
    lockstep::join({engine_.get()}, loop, options);
  }
  /// The sentinel compares this optimizer's settings over the ranks, and looks whether it holds the parameters that get
  /// gradients. The optimizer must live as long as this is trained.
  void watch(const torch::optim::Optimizer& optimizer) { engine_->watch(optimizer); }
  /// From now on each backward that synchronises ends with what optimizer.step() and zero_grad() do, bucket by bucket
  /// while later ones are still on their way, with the same bits: the program calls neither, on any rank. Gradients of
  /// the optimizer's parameters are zero when backward returns; what they hold now counts in the first one. For what
  /// needs gradients before the step, such as clipping by norm or GradScaler, and for two backwards that synchronise in
  /// one step, the optimizer steps behind backward as usual. Frozen parameters do not step. Where backward throws, some
  /// parameters may have stepped.
  /// `optimizer` treats parameters one by one, holds none but the module's, and outlives this object's use of it;
  /// several may be given. Its settings are compared as by watch().
  /// UsageError for another optimizer, in a backward, and with find_unused_parameters or static_graph.
  /// Source: torch.distributed.optim._apply_optimizer_in_backward.
  void step_in_backward(torch::optim::Optimizer& optimizer) { engine_->step_in_backward(optimizer); }
  /// What the sentinel has found; each kind of mistake is also said once on the log. See Sentinel.
  const std::vector<Finding>& findings() const noexcept { return engine_->findings(); }
  /// See DataParallelEngine::set_trace.
  void set_trace(Trace* trace) noexcept { engine_->set_trace(trace); }
  const DdpStatistics& stats() const noexcept { return engine_->stats(); }
  ModuleHolder& module() noexcept { return module_; }
  /// For join() over several.
  DataParallelEngine& engine() noexcept { return *engine_; }

  // So that ddp->forward(x) reads as with any module holder of libtorch.
  DistributedDataParallel* operator->() noexcept { return this; }

 private:
  ModuleHolder module_;
  std::unique_ptr<DataParallelEngine> engine_;
};

}  // namespace lockstep
