#include "lockstep/parallel/amp/grad_scaler.h"

#include <algorithm>
#include <cmath>
#include <unordered_set>
#include <vector>

#include <ATen/ATen.h>
#include <torch/optim/optimizer.h>

#include "lockstep/core/base/check.h"

namespace lockstep {
namespace {

/// A finite sum has finite terms, and one pass that adds is the cheapest there is; the sum of finite terms may still
/// overflow, which a second look settles.
bool all_finite(const at::Tensor& tensor) {
  return std::isfinite(tensor.sum().item<double>()) || tensor.isfinite().all().item<bool>();
}

}  // namespace

GradScaler::GradScaler(const GradScalerOptions& options) : options_(options), state_{options.init_scale, 0} {
  LS_REQUIRE(std::isfinite(options.init_scale) && options.init_scale > 0, "GradScaler: init_scale is ",
             options.init_scale, "; expected a finite number above 0");
  LS_REQUIRE(options.growth_factor > 1, "GradScaler: growth_factor is ", options.growth_factor, "; expected above 1");
  LS_REQUIRE(options.backoff_factor > 0 && options.backoff_factor < 1, "GradScaler: backoff_factor is ",
             options.backoff_factor, "; expected a number between 0 and 1");
  LS_REQUIRE(options.growth_interval > 0, "GradScaler: growth_interval is ", options.growth_interval,
             "; expected 1 or more");
}

at::Tensor GradScaler::scale(const at::Tensor& loss) {
  if (!options_.enabled) return loss;
  scaled_ = true;
  return loss * state_.scale;
}

void GradScaler::unscale(torch::optim::Optimizer& optimizer) {
  if (!options_.enabled) return;
  LS_REQUIRE(scaled_, "GradScaler: unscale or step before scale: the loss of this iteration was not scaled");
  if (const auto progress = optimizers_.find(&optimizer); progress != optimizers_.end()) {
    throw UsageError(progress->second.stage == Stage::kUnscaled
                         ? "GradScaler: unscale was already called for this optimizer since the last update"
                         : "GradScaler: unscale after step of the same optimizer; call it before, or update first");
  }
  const bool found_inf = unscale_gradients(optimizer);
  optimizers_[&optimizer] = {Stage::kUnscaled, found_inf};
}

/// Whether some rank found inf or nan.
bool GradScaler::unscale_gradients(torch::optim::Optimizer& optimizer) const {
  std::vector<at::Tensor> gradients;
  std::unordered_set<const void*> seen;  // A module lists what two of its layers share twice.
  for (const auto& parameters : optimizer.param_groups()) {
    for (const at::Tensor& parameter : parameters.params()) {
      if (!parameter.grad().defined()) continue;
      if (seen.insert(parameter.unsafeGetTensorImpl()).second) gradients.push_back(parameter.grad());
    }
  }
  const auto is_half = [](const at::Tensor& gradient) { return gradient.scalar_type() == at::kHalf; };
  LS_REQUIRE(std::none_of(gradients.begin(), gradients.end(), is_half),
             "GradScaler: a gradient is float16, which could not hold the unscaled value; keep parameters in float32 "
             "and let Autocast cast");
  const at::NoGradGuard no_grad;
  bool finite = true;
  for (at::Tensor& gradient : gradients) {
    finite = finite && all_finite(gradient);
    gradient.mul_(1 / state_.scale);
  }
  if (options_.group != nullptr) {
    at::Tensor found = at::full({1}, finite ? 0 : 1, at::kFloat);
    options_.group->all_reduce(found, ReduceOp::kMax, {.timeout = {}, .label = "GradScaler"});
    finite = found.item<float>() == 0;
  }
  LS_REQUIRE(!gradients.empty(),
             "GradScaler: the optimizer's parameters have no gradients; call backward on the scaled loss first");
  return !finite;
}

bool GradScaler::step(torch::optim::Optimizer& optimizer) {
  if (options_.enabled) {
    const auto progress = optimizers_.find(&optimizer);
    if (progress == optimizers_.end()) unscale(optimizer);
    Progress& now = optimizers_.at(&optimizer);
    LS_REQUIRE(now.stage != Stage::kStepped, "GradScaler: step was already called for this optimizer since the last ",
               "update");
    now.stage = Stage::kStepped;
    if (now.found_inf) return false;
  }
  optimizer.step();
  return true;
}

void GradScaler::update() {
  if (!options_.enabled) return;
  LS_REQUIRE(!optimizers_.empty(),
             "GradScaler: update without step or unscale since the last update: nothing is known "
             "of this iteration's gradients");
  const bool found_inf = std::any_of(optimizers_.begin(), optimizers_.end(),
                                     [](const auto& optimizer) { return optimizer.second.found_inf; });
  optimizers_.clear();
  scaled_ = false;
  if (found_inf) {
    state_ = {state_.scale * options_.backoff_factor, 0};
  } else if (++state_.growth_tracker >= options_.growth_interval) {
    const double grown = state_.scale * options_.growth_factor;
    // Beyond float32 the scaled loss itself would be inf.
    state_ = {std::isfinite(static_cast<float>(grown)) ? grown : state_.scale, 0};
  }
}

void GradScaler::load_state(const GradScalerState& state) {
  LS_REQUIRE(std::isfinite(state.scale) && state.scale > 0, "GradScaler: the state's scale is ", state.scale,
             "; expected a finite number above 0");
  state_ = state;
}

}  // namespace lockstep
