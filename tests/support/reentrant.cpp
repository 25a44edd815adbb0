#include "tests/support/reentrant.h"

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
    const auto call = c10::static_intrusive_pointer_cast<Call>(context->saved_data["call"].toCapsule());
    const at::AutoGradMode recorded(true);
    torch::autograd::backward({call->function(x)}, gradients);
    return {at::Tensor(), x.grad(), at::Tensor()};
  }
};

}  // namespace

at::Tensor reentrant(const TensorFunction& function, const at::Tensor& x) {
  const at::Tensor needs_gradient = at::zeros({1}).requires_grad_(true);
  return Reentrant::apply(c10::make_intrusive<Call>(function), x, needs_gradient);
}

}  // namespace lockstep::support
