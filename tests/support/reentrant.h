#pragma once
// Parts of a module whose backward runs inside of the outer one.

#include <functional>

#include <ATen/core/Tensor.h>

namespace lockstep::support {

using TensorFunction = std::function<at::Tensor(const at::Tensor&)>;

/// function(x). Its node runs a whole backward, which accumulates the gradients of what `function` uses: inside of the
/// outer backward, and once for each such node. torch.utils.checkpoint with use_reentrant=True.
at::Tensor reentrant(const TensorFunction& function, const at::Tensor& x);

}  // namespace lockstep::support
