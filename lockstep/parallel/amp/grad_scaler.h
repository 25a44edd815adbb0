#pragma once

#include <cstdint>
#include <map>
#include <memory>

#include <ATen/core/Tensor.h>

#include "lockstep/parallel/group/process_group.h"

namespace torch::optim {
class Optimizer;
}

namespace lockstep {

struct GradScalerOptions {
  double init_scale = 65536;
  double growth_factor = 2;                       ///< above 1; powers of two keep scaling exact
  double backoff_factor = 0.5;                    ///< between 0 and 1
  std::int64_t growth_interval = 2000;            ///< steps in a row without inf or nan before the scale grows
  bool enabled = true;                            ///< false: every call is what it would be without a scaler
  std::shared_ptr<ProcessGroup> group = nullptr;  ///< whose ranks skip a step together; null: this rank decides alone
};

/// What GradScaler keeps from step to step, for checkpoints.
struct GradScalerState {
  double scale = 0;
  std::int64_t growth_tracker = 0;  ///< steps since the scale changed
};

/// Scales the loss, so that small gradients are no zeros in half precision, and divides the gradients again before the
/// optimizer sees them; a step whose gradients have inf or nan is skipped, and the scale is lowered (Micikevicius et
/// al. 2018, "Mixed Precision Training").
///
///     scaler.scale(loss).backward();
///     scaler.unscale(optimizer);                       // only where gradients are looked at or clipped
///     lockstep::clip_grad_norm(net->parameters(), 1);
///     scaler.step(optimizer);
///     scaler.update();
///
/// All ranks of `group` decide alike: one all_reduce of one float32 for each unscale. With DistributedDataParallel the
/// gradients are averaged already, an inf or nan of one rank is in the average of all, and each rank alone would decide
/// the same; with parameters in parts (shards, stages) the group is what keeps replicas alike. The loss must have the
/// same scale on all ranks, which it has when they start and update alike.
/// bfloat16 has float32's range and needs no scaling; float16 does.
///
/// Cost: unscale reads all gradients and scales them: three passes.
/// Throws UsageError for options out of range and for calls out of order (step or unscale before scale, unscale or step
/// twice between updates, unscale after step, update without either), before anything is changed; for gradients of
/// dtype float16 (parameters are float32 under autocast); for an optimizer without any gradient. Else as ProcessGroup.
/// Threads: one. Optimizers must outlive the calls between two updates. Source: torch.amp.GradScaler.
class GradScaler {
 public:
  explicit GradScaler(const GradScalerOptions& options = {});

  /// loss * scale, in loss' dtype: call backward() on it.
  at::Tensor scale(const at::Tensor& loss);
  /// Divides the gradients of the optimizer's parameters by the scale, in place, and looks for inf and nan.
  /// Collective where there is a group.
  void unscale(torch::optim::Optimizer& optimizer);
  /// unscale, where it was not called; then optimizer.step(), unless a gradient is inf or nan on some rank. Returns
  /// whether the step was done.
  bool step(torch::optim::Optimizer& optimizer);
  /// Ends the iteration: the scale shrinks where a step of it was skipped, and grows after growth_interval without.
  void update();

  /// The current factor; 1 where not enabled.
  double get_scale() const noexcept { return options_.enabled ? state_.scale : 1; }
  bool is_enabled() const noexcept { return options_.enabled; }

  GradScalerState state() const noexcept { return state_; }
  /// Continues from a state() of a scaler with the same options. UsageError unless its scale is finite and above 0.
  void load_state(const GradScalerState& state);

 private:
  enum class Stage { kUnscaled, kStepped };
  struct Progress {
    Stage stage;
    bool found_inf;
  };
  bool unscale_gradients(torch::optim::Optimizer& optimizer) const;

  GradScalerOptions options_;
  GradScalerState state_;
  bool scaled_ = false;  // Since the last update.
  std::map<const torch::optim::Optimizer*, Progress> optimizers_;
};

}  // namespace lockstep
