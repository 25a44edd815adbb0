#include "tests/support/recomputed.h"

#include <memory>

#include <torch/torch.h>

namespace lockstep::support {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Call : torch::CustomClassHolder {
  explicit Call(TensorFunction f) : function(std::move(f)) {}
  TensorFunction function;
};

at::Tensor run_again(AutogradContext& context, const at::Tensor& x) {
  const at::AutoGradMode gradients(true);
  const auto call = c10::static_intrusive_pointer_cast<Call>(context.saved_data["call"].toCapsule());
  return call->function(x);
}

class Recomputed : public torch::autograd::Function<Recomputed> {
 public:
  static at::Tensor forward(AutogradContext* context, const c10::intrusive_ptr<Call>& call, const at::Tensor& x,
                            at::TensorList parameters) {
    variable_list saved = {x};
    saved.insert(saved.end(), parameters.begin(), parameters.end());
    context->save_for_backward(saved);
    context->saved_data["call"] = c10::IValue::make_capsule(call);
    return call->function(x);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    variable_list sources = context->get_saved_variables();
    sources[0] = sources[0].detach().requires_grad_(true);
    const at::Tensor y = run_again(*context, sources[0]);
    variable_list wanted;
    for (const at::Tensor& source : sources) {
      if (source.requires_grad()) wanted.push_back(source);
    }
    const variable_list found = torch::autograd::grad({y}, wanted, gradients, false, false, true);
    variable_list result = {at::Tensor()};
    std::size_t next = 0;
    for (const at::Tensor& source : sources) {
      result.push_back(source.requires_grad() ? found[next++] : at::Tensor());
    }
    return result;
  }
};

class Reentrant : public torch::autograd::Function<Reentrant> {
 public:
  /// `needs_gradient` makes the output need one even where x does not.
  static at::Tensor forward(AutogradContext* context, const c10::intrusive_ptr<Call>& call, const at::Tensor& x,
                            const at::Tensor&) {
    context->save_for_backward({x});
    context->saved_data["call"] = c10::IValue::make_capsule(call);
    return call->function(x);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const at::Tensor x = context->get_saved_variables()[0].detach().requires_grad_(true);
    torch::autograd::backward({run_again(*context, x)}, gradients);
    return {at::Tensor(), x.grad(), at::Tensor()};
  }
};

}  // namespace

at::Tensor recomputed(const TensorFunction& function, const at::Tensor& x, const std::vector<at::Tensor>& parameters) {
  return Recomputed::apply(c10::make_intrusive<Call>(function), x, at::TensorList(parameters));
}

at::Tensor recomputed_reentrant(const TensorFunction& function, const at::Tensor& x) {
  const at::Tensor needs_gradient = at::zeros({1}).requires_grad_(true);
  return Reentrant::apply(c10::make_intrusive<Call>(function), x, needs_gradient);
}

}  // namespace lockstep::support
