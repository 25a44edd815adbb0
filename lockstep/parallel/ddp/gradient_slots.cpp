#include "lockstep/parallel/ddp/gradient_slots.h"

#include <utility>

#include <ATen/ATen.h>
#include <c10/util/strides.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/function_hook.h>

#include "lockstep/core/base/check.h"
#include "lockstep/parallel/group/dtype_map.h"

namespace lockstep::ddp {
namespace {

class GradientHook final : public torch::autograd::FunctionPostHook {
 public:
  explicit GradientHook(std::function<void(bool)> call) : call_(std::move(call)) {}
  torch::autograd::variable_list operator()(const torch::autograd::variable_list& outputs,
                                            const torch::autograd::variable_list& inputs) override {
    call_(inputs.empty() || inputs[0].defined());
    return outputs;
  }

 private:
  std::function<void(bool)> call_;
};

bool same_memory(const at::Tensor& a, const at::Tensor& b) {
  return a.layout() == at::kStrided && a.data_ptr() == b.data_ptr() && a.sizes() == b.sizes() &&
         a.strides() == b.strides();
}

}  // namespace

at::Tensor make_slot(const at::Tensor& memory, std::int64_t offset, const at::Tensor& parameter) {
  const at::NoGradGuard no_grad;
  at::Tensor slot = at::empty({0}, memory.options());
  // In the parameter's own layout where it has no holes, so that adding and stepping run over memory in order.
  if (parameter.is_non_overlapping_and_dense()) {
    return slot.set_(memory.storage(), offset, parameter.sizes(), parameter.strides());
  }
  return slot.set_(memory.storage(), offset, parameter.sizes(), c10::contiguous_strides(parameter.sizes()));
}

void Gradient::move_to(at::Tensor to, bool attach) {
  const at::NoGradGuard no_grad;
  slot = std::move(to);
  at::Tensor& grad = parameter.tensor.mutable_grad();
  if (grad.defined()) {
    slot.copy_(grad);
  } else if (!attach) {
    return;
  }
  grad = slot;
}

bool Gradient::adopt() {
  at::Tensor& grad = parameter.tensor.mutable_grad();
  if (grad.is_same(slot)) return false;
  const at::NoGradGuard no_grad;
  bool copied = false;
  if (!grad.defined()) {
    slot.zero_();
  } else if (grad.layout() != at::kStrided) {
    throw UsageError(base::cat("the gradient of parameter '", parameter.name, "' is ", group::tensor_text(grad),
                               "; expected a dense one: use a dense layer (Embedding with sparse(false))"));
  } else if (!same_memory(grad, slot)) {
    slot.copy_(grad);
    copied = true;
  }
  grad = slot;
  return copied;
}

void Gradient::set_unused() {
  unused = true;
  ready = true;
  const at::NoGradGuard no_grad;
  if (parameter.tensor.grad().defined()) {
    adopt();
    kept = slot.clone();
  } else {
    slot.zero_();
  }
}

void Gradient::settle_unused(bool used) {
  const at::NoGradGuard no_grad;
  if (used) {
    parameter.tensor.mutable_grad() = slot;
  } else if (kept.defined()) {
    slot.copy_(kept);
  }
  kept.reset();
}

AccumulationHooks::AccumulationHooks(const std::vector<Gradient>& gradients,
                                     const std::function<void(std::size_t, bool)>& on_gradient) {
  hooks_.reserve(gradients.size());
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    auto hook = std::make_unique<GradientHook>([on_gradient, i](bool defined) { on_gradient(i, defined); });
    hooks_.push_back({gradients[i].accumulator, gradients[i].accumulator->add_post_hook(std::move(hook))});
  }
}

AccumulationHooks::~AccumulationHooks() {
  for (const Hook& hook : hooks_) hook.accumulator->del_post_hook(hook.key);
}

}  // namespace lockstep::ddp
