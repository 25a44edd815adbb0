#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>

#include "lockstep/parallel/ddp/comm_hook.h"
#include "lockstep/parallel/ddp/ddp_options.h"
#include "lockstep/parallel/ddp/join.h"
#include "lockstep/parallel/group/process_group.h"
#include "lockstep/parallel/sentinel/sentinel.h"
#include "lockstep/parallel/trace/trace.h"

namespace torch::nn {
class Module;
}
namespace torch::optim {
class Optimizer;
}

namespace lockstep {

/// The engine behind DistributedDataParallel: everything that does not depend on the module's type. For loops that call
/// a module's forward themselves: before_forward(inputs), the module, after_forward(outputs), backward. See
/// DistributedDataParallel for what the functions mean.
class DataParallelEngine final : public Joinable {
 public:
  DataParallelEngine(torch::nn::Module& module, std::shared_ptr<ProcessGroup> group, DdpOptions options = {});
  ~DataParallelEngine() override;

  void before_forward(const std::vector<at::Tensor>& inputs = {});
  /// `outputs`: what the loss is computed from.
  void after_forward(const std::vector<at::Tensor>& outputs);
  void set_synchronise(bool on) noexcept;
  bool synchronises() const noexcept;
  void average_over_samples(std::int64_t samples);
  void register_comm_hook(std::shared_ptr<CommHook> hook);
  void watch(const torch::optim::Optimizer& optimizer);
  void step_in_backward(torch::optim::Optimizer& optimizer);
  const std::vector<Finding>& findings() const noexcept;
  /// Records forward, backward, buckets and waits; null: nothing. The trace must outlive this object's use of it.
  void set_trace(Trace* trace) noexcept;
  const DdpStatistics& stats() const noexcept;

  ProcessGroup& join_group() override;
  void shadow_forward(const JoinRound& round) override;
  void shadow_backward(const JoinRound& round) override;
  void after_join(const JoinRound& round) override;

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

}  // namespace lockstep
