#include "lockstep/parallel/nn/clip_grad.h"

#include <algorithm>
#include <cmath>
#include <unordered_set>

#include <ATen/ATen.h>

#include "lockstep/core/base/check.h"

namespace lockstep {
namespace {

/// Each once: a module lists what two of its layers share twice.
std::vector<at::Tensor> gradients_of(const std::vector<at::Tensor>& parameters) {
  std::vector<at::Tensor> gradients;
  std::unordered_set<const void*> seen;
  for (const at::Tensor& parameter : parameters) {
    if (!parameter.defined() || !parameter.grad().defined()) continue;
    if (seen.insert(parameter.unsafeGetTensorImpl()).second) gradients.push_back(parameter.grad());
  }
  return gradients;
}

double norm_of(const at::Tensor& gradient, double norm_type) {
  if (gradient.numel() == 0) return 0;
  // Half types would round the norm itself.
  const bool half = gradient.scalar_type() == at::kHalf || gradient.scalar_type() == at::kBFloat16;
  return at::linalg_vector_norm(half ? gradient.to(at::kFloat) : gradient, norm_type).item<double>();
}

double all_reduced(double value, ReduceOp op, const std::shared_ptr<ProcessGroup>& group) {
  if (group == nullptr) return value;
  at::Tensor tensor = at::full({1}, value, at::kDouble);
  group->all_reduce(tensor, op, {.timeout = {}, .label = "clip_grad_norm"});
  return tensor.item<double>();
}

}  // namespace

double clip_grad_norm(const std::vector<at::Tensor>& parameters, double max_norm, const ClipGradOptions& options,
                      const std::shared_ptr<ProcessGroup>& group) {
  const double p = options.norm_type;
  LS_REQUIRE(p > 0, "clip_grad_norm: norm_type is ", p, "; expected a number above 0, or infinity");
  LS_REQUIRE(max_norm >= 0, "clip_grad_norm: max_norm is ", max_norm, "; expected 0 or more");
  const at::NoGradGuard no_grad;
  const std::vector<at::Tensor> gradients = gradients_of(parameters);

  double total = 0;
  for (const at::Tensor& gradient : gradients) {
    const double norm = norm_of(gradient, p);
    // Not std::max, which would lose a nan.
    total = !std::isinf(p) ? total + std::pow(norm, p) : (norm > total || std::isnan(norm) ? norm : total);
  }
  total = all_reduced(total, std::isinf(p) ? ReduceOp::kMax : ReduceOp::kSum, group);
  if (!std::isinf(p)) total = std::pow(total, 1 / p);

  LS_REQUIRE(!options.error_if_nonfinite || std::isfinite(total), "clip_grad_norm: the norm of order ", p,
             " of the gradients is ", total, ", so they cannot be clipped; error_if_nonfinite = false lets it pass");
  const double factor = max_norm / (total + 1e-6);
  if (!(factor >= 1)) {  // Nan as well: all gradients show it.
    for (at::Tensor gradient : gradients) gradient.mul_(factor);
  }
  return total;
}

void clip_grad_value(const std::vector<at::Tensor>& parameters, double clip_value) {
  LS_REQUIRE(clip_value >= 0, "clip_grad_value: clip_value is ", clip_value, "; expected 0 or more");
  const at::NoGradGuard no_grad;
  for (at::Tensor gradient : gradients_of(parameters)) gradient.clamp_(-clip_value, clip_value);
}

}  // namespace lockstep
